#include "rmanager/rmanager.h"

#include <algorithm>

#include "base/check.h"
#include "base/status.h"
#include "rmanager/wire.h"

namespace lombard {
namespace {

constexpr size_t kOpenMovesMax = 64;

}  // namespace

RManager::RManager(const RManagerOptions& options, KvPool* pool)
    : options_(options),
      pool_(pool),
      outbox_(Value(options.incarnation)),
      lent_({.self = options.self,
             .incarnation = options.incarnation,
             .reserve = options.reserve,
             .lent_max = options.lent_max,
             .lease = options.lease},
            pool),
      borrowed_({.self = options.self,
                 .reply_deadline = options.reply_deadline,
                 .retry = options.retry,
                 .backoff = options.backoff},
                &outbox_),
      incarnations_(options.instances, 0) {
  CHECK_LT(Value(options.self), static_cast<uint32_t>(options.instances));
  CHECK_GT(Value(options.incarnation), 0u);
  facts_.instances.resize(options.instances);
}

void RManager::Handle(int from, const messages::ControlMessage& message, absl::Time now) {
  using Body = messages::ControlMessage::BodyCase;
  if (from < 0 || from >= options_.instances || message.incarnation() == 0) {
    ++malformed_;
    return;
  }
  if (!AcceptIncarnation(from, message.incarnation(), now)) return;
  const Body body = message.body_case();
  const bool from_gmanager =
      body == Body::kHeartbeatAck || body == Body::kClusterView || body == Body::kMoveKv;
  if (from_gmanager ? from != options_.gmanager : from == static_cast<int>(Value(options_.self))) {
    ++malformed_;
    return;
  }
  const InstanceId peer{static_cast<uint32_t>(from)};
  switch (body) {
    case Body::kHeartbeatAck:
      full_heartbeat_ |= message.heartbeat_ack().need_full();
      OnView(message.heartbeat_ack().view());
      break;
    case Body::kClusterView:
      OnView(message.cluster_view());
      break;
    case Body::kMoveKv:
      OnMove(message.move_kv());
      break;
    case Body::kTryMoveKv:
      OnTry(peer, message.try_move_kv(), now);
      break;
    case Body::kTryMoveKvReply:
      UpdateLendable(from, message.try_move_kv_reply().lendable());
      borrowed_.OnReply(peer, message.try_move_kv_reply(), facts_, now);
      break;
    case Body::kActivateLoan:
      OnActivate(peer, message.activate_loan());
      break;
    case Body::kActivateLoanReply:
      borrowed_.OnActivateReply(peer, message.activate_loan_reply(), facts_, now);
      break;
    case Body::kRepay:
      OnRepay(peer, message.repay());
      break;
    case Body::kRepayAck:
      UpdateLendable(from, message.repay_ack().lendable());
      borrowed_.OnRepayAck(peer, message.repay_ack());
      break;
    case Body::kHeartbeat:
    case Body::kMoveKvDone:
    case Body::BODY_NOT_SET:
    default:
      ++malformed_;
  }
  HurryHeartbeat();
}

// What a peer tells itself is newer than the view; never more than its pool, whatever it says.
void RManager::UpdateLendable(int peer, uint32_t lendable) {
  ClusterFacts::Instance& facts = facts_.instances[peer];
  facts.lendable = std::min(lendable, facts.blocks_total);
}

bool RManager::AcceptIncarnation(int from, uint64_t incarnation, absl::Time now) {
  uint64_t& known = incarnations_[from];
  if (incarnation < known) {
    ++stale_;
    return false;
  }
  if (incarnation > known && known != 0) {
    PeerLost(from, now);
    if (from == options_.gmanager) {  // the new one knows nothing and counts from the start
      facts_.epoch = newest_plan_ = 0;
      full_heartbeat_ = true;
    }
  }
  known = incarnation;
  return true;
}

void RManager::OnTry(InstanceId from, const messages::TryMoveKv& ask, absl::Time now) {
  if (ask.blocks() == 0 || ask.purpose() < messages::PURPOSE_ADMISSION ||
      ask.purpose() > messages::PURPOSE_MOVE) {
    ++malformed_;
    return;
  }
  const RequestId request = FromWire(ask.request());
  const bool yields = ask.purpose() != messages::PURPOSE_GROWTH && !MayAdmit(request);
  std::optional<Loan> loan;
  if (!yields) loan = lent_.Reserve(from, ask.ticket(), request, ask.blocks(), now);
  messages::TryMoveKvReply& reply = *outbox_.Add(static_cast<int>(Value(from))).mutable_try_move_kv_reply();
  reply.set_ticket(ask.ticket());
  reply.set_lendable(lent_.lendable());
  if (!loan.has_value()) {
    ++refused_;
    return;
  }
  ToWire(*loan, reply.mutable_loan());
  reply.set_blocks(loan->blocks);
  reply.set_lease_us(absl::ToInt64Microseconds(options_.lease));
}

void RManager::OnActivate(InstanceId from, const messages::ActivateLoan& activate) {
  const bool active = lent_.Activate(from, LoanId{activate.loan().id()}, activate.loan().epoch());
  messages::ActivateLoanReply& reply =
      *outbox_.Add(static_cast<int>(Value(from))).mutable_activate_loan_reply();
  *reply.mutable_loan() = activate.loan();
  reply.set_active(active);
}

void RManager::OnRepay(InstanceId from, const messages::Repay& repay) {
  lent_.Repay(from, LoanId{repay.loan().id()}, repay.loan().epoch());
  messages::RepayAck& ack = *outbox_.Add(static_cast<int>(Value(from))).mutable_repay_ack();
  *ack.mutable_loan() = repay.loan();
  ack.set_lendable(lent_.lendable());
}

void RManager::OnView(const messages::ClusterView& view) {
  // The same view again still counts: it undoes what replies of the moment have told since (UpdateLendable).
  if (view.epoch() < facts_.epoch) return;
  facts_.epoch = view.epoch();
  for (const messages::InstanceFacts& instance : view.instances()) {
    if (instance.instance() >= facts_.instances.size()) {
      ++malformed_;
      continue;
    }
    const messages::BlockCounts& blocks = instance.blocks();
    facts_.instances[instance.instance()] = {.known = true,
                                             .blocks_total = blocks.total(),
                                             .blocks_free = blocks.free(),
                                             .blocks_lent = blocks.lent(),
                                             .blocks_borrowed = blocks.borrowed(),
                                             .lendable = std::min(blocks.lendable(), blocks.total()),
                                             .lendable_max = std::min(blocks.lendable_max(), blocks.total()),
                                             .batch = instance.batch(),
                                             .waiting = instance.waiting()};
  }
  facts_.claim.reset();
  if (view.has_claim()) {
    facts_.claim = {FromWire(view.claim().request()), InstanceId{view.claim().home()}, view.claim().blocks(),
                    view.claim().spare()};
  }
  facts_.oldest.reset();
  if (view.has_oldest()) facts_.oldest = FromWire(view.oldest());
}

void RManager::OnMove(const messages::MoveKv& move) {
  if (move.plan_id() <= newest_plan_) {
    ++stale_;
    return;
  }
  newest_plan_ = move.plan_id();
  const RequestId request = FromWire(move.request());
  const InstanceId to{move.to()};
  const bool moving = std::any_of(moves_.begin(), moves_.end(),
                                  [&](const auto& open) { return open.second.request == request; });
  moves_[move.plan_id()] = {request, move.blocks(), to, {}};
  if (moving || move.blocks() == 0 || move.to() >= facts_.instances.size() || to == options_.self ||
      moves_.size() > kOpenMovesMax) {
    RefuseMove(move.plan_id());
    return;
  }
  events_.push_back(MoveWanted{move.plan_id(), request, move.blocks(), to});
}

std::optional<uint64_t> RManager::StartMove(uint64_t plan_id, absl::Time now) {
  const auto it = moves_.find(plan_id);
  if (it == moves_.end() || it->second.ticket.has_value()) return std::nullopt;
  OpenMove& move = it->second;
  move.ticket = borrowed_.Borrow(move.request, move.blocks, Purpose::kMove, now, move.to, facts_);
  return move.ticket;
}

void RManager::FinishMove(uint64_t plan_id, uint32_t blocks_moved) {
  if (moves_.erase(plan_id) == 0) return;
  messages::MoveKvDone& done = *outbox_.Add(options_.gmanager).mutable_move_kv_done();
  done.set_plan_id(plan_id);
  done.set_moved(blocks_moved);
}

void RManager::Tick(absl::Time now) {
  lent_.Tick(now);
  borrowed_.Tick(facts_, now);
  HurryHeartbeat();
  if (next_heartbeat_ <= now) SendHeartbeat(now);
}

std::vector<RManager::Event> RManager::TakeEvents() {
  for (BorrowedLedger::Result& result : borrowed_.TakeResults()) {
    if (result.granted) {
      events_.push_back(Borrowed{result.ticket, result.request, std::move(result.loans)});
      continue;
    }
    const auto move = std::find_if(moves_.begin(), moves_.end(),
                                   [&](const auto& open) { return open.second.ticket == result.ticket; });
    if (move != moves_.end()) FinishMove(move->first, 0);
    events_.push_back(
        BorrowRefused{result.ticket, result.request, result.blocks, result.cluster_free, result.retry_after});
  }
  return std::exchange(events_, {});
}

absl::Time RManager::NextDeadline() const {
  return std::min({next_heartbeat_, lent_.NextExpiry(), borrowed_.NextDeadline()});
}

uint64_t RManager::Borrow(RequestId request, uint32_t blocks, Purpose purpose, absl::Time now,
                          std::optional<InstanceId> only_from) {
  return borrowed_.Borrow(request, blocks, purpose, now, only_from, facts_);
}

void RManager::CancelBorrow(uint64_t ticket, absl::Time now) {
  borrowed_.Cancel(ticket, now);
  for (auto& [plan_id, move] : moves_) {
    if (move.ticket != ticket) continue;
    FinishMove(plan_id, 0);
    break;
  }
}

void RManager::Repay(LoanId loan, absl::Time now) {
  CHECK(borrowed_.Repay(loan, now)) << "loan " << Value(loan) << " is not in use";
}

void RManager::RepayAll(RequestId request, absl::Time now) {
  borrowed_.RepayAll(request, now);
  for (auto it = moves_.begin(); it != moves_.end();) {
    const auto move = it++;
    if (move->second.request == request) FinishMove(move->first, 0);
  }
}

void RManager::PeerLost(int peer, absl::Time now) {
  if (peer < 0 || peer >= options_.instances) return;
  const InstanceId id{static_cast<uint32_t>(peer)};
  facts_.instances[peer].lendable = facts_.instances[peer].lendable_max = 0;
  lent_.DropDebtor(id);
  for (const Loan& loan : borrowed_.DropCreditor(id, facts_, now)) events_.push_back(LoanLost{loan});
}

bool RManager::MayAdmit(RequestId request) const {
  return !facts_.claim.has_value() || request <= facts_.claim->request;
}

bool RManager::MayAdmitLocally(RequestId request, uint32_t blocks, uint32_t younger_blocks) const {
  return MayAdmit(request) || uint64_t{blocks} + younger_blocks <= facts_.SpareFor(options_.self);
}

bool RManager::IsOldest(RequestId request) const {
  return (!load_.oldest.has_value() || request <= *load_.oldest) &&
         (!facts_.oldest.has_value() || request <= *facts_.oldest);
}

RManager::Counters RManager::counters() const {
  const LentLedger::Counters& lent = lent_.counters();
  return {.granted = lent.granted,
          .refused = refused_,
          .repaid = lent.repaid,
          .lost = lent.lost,
          .withdrawn = lent.withdrawn,
          .expired = lent.expired,
          .lent = lent_.lent(),
          .lent_max = lent.lent_max,
          .borrow_refused = borrowed_.refusals(),
          .borrowed = borrowed_.borrowed(),
          .borrowed_max = borrowed_.borrowed_max(),
          .stale = stale_,
          .malformed = malformed_};
}

absl::Status RManager::CheckInvariants() const {
  RETURN_IF_ERROR(lent_.CheckInvariants());
  return borrowed_.CheckInvariants();
}

}  // namespace lombard
