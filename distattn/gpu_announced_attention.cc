#include "distattn/gpu_announced_attention.h"

#include <algorithm>
#include <vector>

#include "base/status.h"
#include "distattn/gpu_exchange.h"

namespace lombard {

absl::StatusOr<std::unique_ptr<GpuAnnouncedAttention>> GpuAnnouncedAttention::Create(
    int device, const AttentionShape& shape, const GpuKvStorage* storage) {
  ASSIGN_OR_RETURN(GpuStream side, GpuStream::Create(device, /*priority=*/-1));
  ASSIGN_OR_RETURN(GpuEvent begin, GpuEvent::Create(device, /*timing=*/true));
  ASSIGN_OR_RETURN(GpuEvent end, GpuEvent::Create(device, /*timing=*/true));
  return std::unique_ptr<GpuAnnouncedAttention>(
      new GpuAnnouncedAttention(shape, storage, std::move(side), std::move(begin), std::move(end)));
}

GpuAnnouncedAttention::~GpuAnnouncedAttention() { side_.Synchronize().IgnoreError(); }

absl::Status GpuAnnouncedAttention::Prepare(absl::Span<const SpanQuery> queries) {
  // Who sees all of a span under every window of the model does so in all layers.
  std::vector<SpanQuery> planned(queries.begin(), queries.end());
  for (const int window : shape_.layer_windows) {
    for (SpanQuery& query : planned) query.window = std::max(query.window, window);
  }
  tables_.Clear();
  plan_.Plan(planned, &tables_);
  RETURN_IF_ERROR(plan_.Reserve(side_.device()));
  RETURN_IF_ERROR(Grow(plan_.query_bytes(), &query_));
  RETURN_IF_ERROR(Grow(plan_.state_bytes(), &states_));
  return tables_.Send(side_);
}

absl::Status GpuAnnouncedAttention::Submit(Collectives& collectives, LoanPair pair) {
  const GpuExchangePart part{.other = pair.debtor,
                             .query = query_.data(),
                             .query_bytes = plan_.query_bytes(),
                             .states = states_.data(),
                             .state_bytes = plan_.state_bytes()};
  const int layers = static_cast<int>(shape_.layer_windows.size()), timed = layers / 2;
  return SubmitCreditorExchange(collectives, pair, part, layers, side_, [&](int layer) -> absl::Status {
    if (layer == timed) RETURN_IF_ERROR(side_.Record(begin_));
    RETURN_IF_ERROR(
        plan_.Enqueue(side_, layer, shape_.layer_windows[layer], query_.data(), states_.data<float>()));
    return layer == timed ? side_.Record(end_) : absl::OkStatus();
  });
}

double GpuAnnouncedAttention::seconds() const {
  const absl::StatusOr<float> milliseconds = ElapsedMs(begin_, end_);
  return milliseconds.ok() ? 1e-3 * *milliseconds * static_cast<double>(shape_.layer_windows.size()) : 0;
}

uint64_t GpuAnnouncedAttention::state_bytes() const {
  return plan_.state_bytes() * shape_.layer_windows.size();
}

absl::Status GpuAnnouncedAttention::Grow(uint64_t bytes, DeviceMemory* memory) const {
  if (bytes <= memory->bytes()) return absl::OkStatus();
  memory->Reset();
  ASSIGN_OR_RETURN(*memory, DeviceMemory::Create(side_.device(), bytes + bytes / 2));
  return absl::OkStatus();
}

}  // namespace lombard
