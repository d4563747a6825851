// Any bytes as control messages to a worker's manager and to the global manager, between steps of an engine
// that borrows, moves and repays. Whatever comes, nothing crashes and the books balance.
//
// Input: records of one byte sender (0..3; 4 and above: an engine step instead), one byte length, and so many
// bytes of protobuf.
#include <cstddef>
#include <cstdint>

#include "base/check.h"
#include "gmanager/gmanager.h"
#include "rmanager/rmanager.h"

namespace {

using namespace lombard;

void StepEngine(RManager& manager, uint64_t draw, absl::Time now) {
  const RequestId request{1, draw % 4};
  for (const RManager::Event& event : manager.TakeEvents()) {
    if (const auto* move = std::get_if<MoveWanted>(&event)) manager.StartMove(move->plan_id, now);
    if (const auto* borrowed = std::get_if<Borrowed>(&event)) manager.Repay(borrowed->loans.front().id, now);
    if (const auto* fenced = std::get_if<FencedOut>(&event)) manager.Restart(fenced->next);
    if (std::holds_alternative<RecallWanted>(event)) manager.PeerUnreachable(static_cast<int>(draw % 4), now);
  }
  switch (draw % 5) {
    case 0:
      manager.Borrow(request, 1 + draw % 7, static_cast<Purpose>(draw % 3), now);
      break;
    case 1:
      manager.RepayAll(request, now);
      break;
    case 2:
      manager.CancelBorrow(draw % 8, now);
      break;
    case 3:
      manager.SetLoad({.batch = 1,
                       .oldest_blocked = Load::Blocked{request, 3, now},
                       .oldest = request,
                       .prefixes = {{draw % 8, {2, 1, draw, draw % 2 == 0}}}});
      break;
    default:
      manager.Tick(now);
  }
}

// What a peer might answer to `sent`, right or wrong.
void Answer(RManager& manager, const Outgoing& sent, uint64_t draw, absl::Time now) {
  messages::ControlMessage answer;
  answer.set_incarnation(1);
  const messages::ControlMessage& message = sent.message;
  if (message.has_try_move_kv()) {
    messages::TryMoveKvReply& reply = *answer.mutable_try_move_kv_reply();
    reply.set_ticket(message.try_move_kv().ticket());
    reply.set_blocks(message.try_move_kv().blocks() + (draw % 16 == 0));
    if (draw % 4 != 0) reply.mutable_loan()->set_id((static_cast<uint64_t>(sent.to) << 40) + draw % 16);
  } else if (message.has_try_move_kv_reply() && draw % 3 == 0) {
    *answer.mutable_repay()->mutable_loan() = message.try_move_kv_reply().loan();
  } else if (message.has_try_move_kv_reply()) {
    *answer.mutable_activate_loan()->mutable_loan() = message.try_move_kv_reply().loan();
  } else if (message.has_activate_loan()) {
    *answer.mutable_activate_loan_reply()->mutable_loan() = message.activate_loan().loan();
    answer.mutable_activate_loan_reply()->set_active(draw % 8 != 0);
  } else if (message.has_activate_loan_reply()) {
    *answer.mutable_repay()->mutable_loan() = message.activate_loan_reply().loan();
  } else if (message.has_repay()) {
    *answer.mutable_repay_ack()->mutable_loan() = message.repay().loan();
  }
  manager.Handle(sent.to, answer, now);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr int kInstances = 4;
  KvPool pool(16);
  RManager manager({.self = InstanceId{1}, .instances = kInstances, .reserve = 0, .lent_max = 1}, &pool);
  GManager gmanager({.instances = kInstances});
  std::vector<Outgoing> sent;
  absl::Time now = absl::UnixEpoch();
  while (size >= 2) {
    const uint8_t from = data[0];
    const size_t length = std::min<size_t>(data[1], size - 2);
    now += absl::Milliseconds(37);
    messages::ControlMessage message;
    if (from >= 128 && !sent.empty()) {
      Answer(manager, sent[from % sent.size()], from / 2, now);
    } else if (from >= kInstances) {
      StepEngine(manager, from, now);
      gmanager.Tick(now);
    } else if (message.ParseFromArray(data + 2, static_cast<int>(length))) {
      manager.Handle(from, message, now);
      gmanager.Handle(from, message, now);
    }
    data += 2 + length;
    size -= 2 + length;
    for (Outgoing& out : manager.TakeOutgoing()) {
      if (!ForGlobalManager(out.message)) sent.push_back(std::move(out));
    }
    if (sent.size() > 8) sent.erase(sent.begin(), sent.end() - 8);
    gmanager.TakeOutgoing();
    CHECK_OK(manager.CheckInvariants());
  }
  for (int i = 0; i < kInstances; ++i) manager.PeerUnreachable(i, now);
  CHECK_OK(manager.CheckInvariants());
  manager.Restart(Incarnation{(uint64_t{1} << 31) + 1});
  CHECK_OK(manager.CheckInvariants());
  CHECK_EQ(pool.free_count(), pool.total_count());
  return 0;
}
