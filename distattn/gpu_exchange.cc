#include "distattn/gpu_exchange.h"

#include <utility>

#include "base/check.h"
#include "base/status.h"

namespace lombard {

absl::Status SubmitCreditorExchange(Collectives& collectives, LoanPair pair, const GpuExchangePart& part,
                                    int layers, GpuStream& side,
                                    absl::FunctionRef<absl::Status(int layer)> attend) {
  absl::Status first;
  for (int layer = 0; layer < layers; ++layer) {
    RETURN_IF_ERROR(collectives.Receive(pair, part.query, part.query_bytes, side.ref()));
    first.Update(attend(layer));
    RETURN_IF_ERROR(collectives.Send(pair, part.states, part.state_bytes, side.ref()));
  }
  return first;
}

absl::StatusOr<GpuDebtorExchange> GpuDebtorExchange::Create(Collectives* collectives, int rank, int layers,
                                                            std::vector<GpuExchangePart> parts,
                                                            GpuStream* side) {
  for (size_t i = 1; i < parts.size(); ++i) CHECK_LT(parts[i - 1].other, parts[i].other);
  ASSIGN_OR_RETURN(GpuEvent ready, GpuEvent::Create(side->device()));
  ASSIGN_OR_RETURN(GpuEvent arrived, GpuEvent::Create(side->device()));
  return GpuDebtorExchange(collectives, rank, layers, std::move(parts), side, std::move(ready),
                           std::move(arrived));
}

GpuDebtorExchange::GpuDebtorExchange(Collectives* collectives, int rank, int layers,
                                     std::vector<GpuExchangePart> parts, GpuStream* side, GpuEvent ready,
                                     GpuEvent arrived)
    : collectives_(collectives),
      rank_(rank),
      layers_left_(layers),
      parts_(std::move(parts)),
      side_(side),
      ready_(std::move(ready)),
      arrived_(std::move(arrived)) {}

absl::Status GpuDebtorExchange::Begin(GpuStream& main) {
  CHECK(!begun_ && layers_left_ > 0);
  begun_ = true;
  --layers_left_;
  // Also after the merge of the layer before, which reads the states that now come anew.
  RETURN_IF_ERROR(main.Record(ready_));
  RETURN_IF_ERROR(side_->Wait(ready_));
  for (const GpuExchangePart& part : parts_) {
    if (lost_.contains(part.other)) continue;
    RETURN_IF_ERROR(
        NoteLoss(part, collectives_->Send({rank_, part.other}, part.query, part.query_bytes, side_->ref())));
  }
  for (const GpuExchangePart& part : parts_) {
    if (lost_.contains(part.other)) continue;
    RETURN_IF_ERROR(NoteLoss(
        part, collectives_->Receive({rank_, part.other}, part.states, part.state_bytes, side_->ref())));
  }
  return side_->Record(arrived_);
}

absl::Status GpuDebtorExchange::End(GpuStream& main) {
  CHECK(begun_);
  begun_ = false;
  return main.Wait(arrived_);
}

absl::Status GpuDebtorExchange::KeepPromise(GpuStream& main) {
  if (begun_) RETURN_IF_ERROR(End(main));
  while (layers_left_ > 0) {
    RETURN_IF_ERROR(Begin(main));
    RETURN_IF_ERROR(End(main));
  }
  return absl::OkStatus();
}

absl::Status GpuDebtorExchange::NoteLoss(const GpuExchangePart& part, absl::Status status) {
  if (status.code() != absl::StatusCode::kUnavailable) return status;
  lost_.insert(part.other);
  return absl::OkStatus();
}

}  // namespace lombard
