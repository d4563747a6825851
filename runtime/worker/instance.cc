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
    rmanager_->Restart(fenced->next);
    incarnation_ = fenced->next;
    tokens_.Take();
    tokens_.set_incarnation(Value(incarnation_));
    ++fenced_count_;
    rmanager_->Tick(now);
    break;
  }
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
