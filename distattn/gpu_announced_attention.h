// AnnouncedAttention on a GPU: a stream of higher priority than the step's, tables once per announcement.
#pragma once

#include <memory>

#include "base/device/gpu_memory.h"
#include "base/device/gpu_stream.h"
#include "base/device/gpu_tables.h"
#include "distattn/announced_attention.h"
#include "distattn/gpu_span_plan.h"

namespace lombard {

class GpuAnnouncedAttention final : public AnnouncedAttention {
 public:
  // `storage` is not owned and outlives this.
  static absl::StatusOr<std::unique_ptr<GpuAnnouncedAttention>> Create(int device,
                                                                       const AttentionShape& shape,
                                                                       const GpuKvStorage* storage);
  ~GpuAnnouncedAttention() override;

  absl::Status Prepare(absl::Span<const SpanQuery> queries) override;
  absl::Status Submit(Collectives& collectives, LoanPair pair) override;
  absl::StatusOr<bool> Ended() override { return side_.IsDone(); }
  SpanAttention::Counts counts() const override { return plan_.counts(); }
  double seconds() const override;
  uint64_t state_bytes() const override;

 private:
  GpuAnnouncedAttention(const AttentionShape& shape, const GpuKvStorage* storage, GpuStream side,
                        GpuEvent begin, GpuEvent end)
      : shape_(shape),
        plan_(shape, storage),
        begin_(std::move(begin)),
        end_(std::move(end)),
        side_(std::move(side)) {}

  absl::Status Grow(uint64_t bytes, DeviceMemory* memory) const;

  const AttentionShape shape_;
  GpuSpanPlan plan_;
  GpuTables tables_;
  DeviceMemory query_, states_;
  GpuEvent begin_, end_;  // of the layer in the middle
  GpuStream side_;
};

}  // namespace lombard
