// The creditor's arithmetic on a GPU: other ranks' query rows are copied there, attended on a stream of
// higher priority than the step's, and the states are copied back.
#pragma once

#include <memory>

#include "base/device/gpu_memory.h"
#include "base/device/gpu_stream.h"
#include "base/device/gpu_tables.h"
#include "distattn/gpu_span_plan.h"
#include "distattn/span_attention.h"
#include "kvpool/gpu_kv_storage.h"

namespace lombard {

class GpuSpanAttention final : public SpanAttention {
 public:
  // `storage` is not owned and outlives this.
  static absl::StatusOr<std::unique_ptr<GpuSpanAttention>> Create(int device, const AttentionShape& shape,
                                                                  const GpuKvStorage* storage);
  ~GpuSpanAttention() override;

  absl::Status Attend(int layer, absl::Span<const SpanQuery> queries, absl::string_view q,
                      absl::Span<float> states) override;
  Counts counts() const override { return counts_; }

 private:
  GpuSpanAttention(const AttentionShape& shape, const GpuKvStorage* storage, GpuStream stream)
      : shape_(shape), storage_(storage), plan_(shape, storage), stream_(std::move(stream)) {}
  // `queries` have one window. The rows' states come to host_: acc, max, sum of all rows.
  absl::Status AttendOneWindow(int layer, absl::Span<const SpanQuery> queries, absl::string_view q);

  const AttentionShape shape_;
  const GpuKvStorage* const storage_;
  Counts counts_;
  GpuTables tables_;
  GpuSpanPlan plan_;
  DeviceMemory states_;
  PinnedMemory host_;
  GpuStream stream_;
};

}  // namespace lombard
