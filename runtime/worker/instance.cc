#include "runtime/worker/instance.h"

#include <iterator>

#include "base/status.h"
#include "runtime/worker/convert.h"

namespace lombard {

absl::Status Instance::Handle(int from, const messages::ControlMessage& message, absl::Time now) {
  if (message.has_submit()) {
    // Meant for an earlier process of this instance: it has been given to another one since.
    if (message.submit().to_incarnation() != Value(incarnation_)) return absl::OkStatus();
    ASSIGN_OR_RETURN(SequenceRequest request, FromMessage(message.submit()));
    FollowMembers();  // it may have been given by a list that came just before it
    if (!engine_->Knows(request.id)) engine_->Submit(std::move(request), now);
  } else if (message.has_cancel()) {
    engine_->Cancel({message.cancel().arrival_us(), message.cancel().number()}, now);
  } else {
    rmanager_->Handle(from, message, now);
  }
  return absl::OkStatus();
}

void Instance::Tick(absl::Time now) {
  rmanager_->Tick(now);
  for (const RManager::Event& event : rmanager_->TakeEvents()) {
    const auto* fenced = std::get_if<FencedOut>(&event);
    if (fenced == nullptr) {
      engine_->HandleEvent(event, now);
      continue;
    }
    engine_->CancelAll(now);
    if (fenced->taken || draining()) {  // the requests run elsewhere already, or will
      ousted_ = fenced->taken;
      left_ = cut_off_ = true;
      break;
    }
    rmanager_->Restart(fenced->next);
    incarnation_ = fenced->next;
    tokens_.Take();
    tokens_.set_incarnation(Value(incarnation_));
    ++fenced_count_;
    rmanager_->Tick(now);
    break;
  }
  FollowMembers();
  if (draining() && !left_) GoOnDraining(now);
}

void Instance::FollowMembers() {
  if (const uint32_t blocks = rmanager_->reachable_blocks(); blocks > 0) engine_->set_cluster_blocks(blocks);
}

void Instance::Drain(absl::Duration wait, absl::Time now) {
  if (draining()) wait = absl::ZeroDuration();
  drain_end_ = now + wait;
  hand_back_ = now + wait / 2;
  // Recalls end before the rest does, so that their debtors still find somebody.
  rmanager_->Drain(now + wait * 0.9, now);
}

void Instance::GoOnDraining(absl::Time now) {
  HandBack(/*running=*/false, now);
  if (now >= hand_back_) HandBack(/*running=*/true, now);
  const bool done =
      (engine_->idle() && bug_ == PlantedBug::kLeaveWithLoans) || (quiet() && rmanager_->settled());
  if (!done && now < *drain_end_) return;
  rmanager_->SayLeft();
  left_ = true;
}

void Instance::HandBack(bool running, absl::Time now) {
  const std::vector<RequestId> requests = engine_->requests(running);
  if (requests.empty()) return;
  messages::HandBack hand_back;
  for (const RequestId& id : requests) {
    messages::HandBack::Sequence& sequence = *hand_back.add_sequences();
    sequence.set_arrival_us(id.arrival_us);
    sequence.set_number(id.number);
    engine_->Cancel(id, now);
  }
  *tokens_.Add(front_door_).mutable_hand_back() = std::move(hand_back);
}

void Instance::OnFailures(absl::Span<const RemoteFailure> failures, absl::Time now) {
  for (const RemoteFailure& failure : failures) {
    if (failure.loan.has_value()) {
      rmanager_->LoanRefused(*failure.loan, now);
    } else {
      rmanager_->PeerUnreachable(failure.creditor, now);
    }
  }
}

std::vector<Outgoing> Instance::TakeOutgoing() {
  const std::vector<SequenceOutput> outputs = engine_->TakeOutputs();
  if (!outputs.empty()) {
    messages::TokenBatch& batch = *tokens_.Add(front_door_).mutable_tokens();
    for (const SequenceOutput& output : outputs) ToMessage(output, batch.add_events());
    const uint64_t block_tokens = engine_->block_tokens();
    batch.set_kv_tokens_used(pool_->used_count() * block_tokens);
    batch.set_kv_tokens_lent(rmanager_->counters().lent * block_tokens);
  }
  std::vector<Outgoing> outgoing = rmanager_->TakeOutgoing();
  std::vector<Outgoing> tokens = tokens_.Take();
  std::move(tokens.begin(), tokens.end(), std::back_inserter(outgoing));
  return outgoing;
}

bool Instance::quiet() const {
  return engine_->idle() && rmanager_->borrowed().empty() && rmanager_->counters().lent == 0 &&
         rmanager_->counters().prefix_lent == 0;
}

}  // namespace lombard
