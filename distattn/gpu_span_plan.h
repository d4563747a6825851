// Other ranks' rows against spans that lie here, planned for a GPU: once, for one layer or for all.
//
//   plan.Plan(queries, &tables);
//   RETURN_IF_ERROR(tables.Send(stream));
//   RETURN_IF_ERROR(plan.Reserve(device));
//   RETURN_IF_ERROR(plan.Enqueue(stream, layer, window, q, states));
#pragma once

#include <vector>

#include "absl/status/status.h"
#include "base/device/gpu_memory.h"
#include "base/device/gpu_stream.h"
#include "base/device/gpu_tables.h"
#include "distattn/span_attention.h"
#include "kernels/cuda/attention_schedule.h"
#include "kvpool/gpu_kv_storage.h"

namespace lombard {

// One thread; nothing is owned but the memory for states of parts.
class GpuSpanPlan {
 public:
  GpuSpanPlan(const AttentionShape& shape, const GpuKvStorage* storage) : shape_(shape), storage_(storage) {}

  // Adds the arrays to `tables`, which the caller sends and leaves alone while the plan is in use. REQUIRES:
  // all queries have one window.
  void Plan(absl::Span<const SpanQuery> queries, GpuTables* tables);
  // kResourceExhausted: no room for the states of parts. REQUIRES: nothing of the plan before is in a stream.
  absl::Status Reserve(int device);
  // q: [rows, q_heads, head_dim] of the KV dtype; states: acc [rows, q_heads, head_dim], max [rows, q_heads],
  // sum [rows, q_heads] of all rows. Device memory.
  absl::Status Enqueue(GpuStream& stream, int layer, int window, const void* q, float* states);

  int rows() const { return rows_; }
  uint64_t query_bytes() const;
  uint64_t state_bytes() const;
  SpanAttention::Counts counts() const { return counts_; }

 private:
  uint64_t row_bytes() const;  // of states

  const AttentionShape shape_;
  const GpuKvStorage* const storage_;
  int rows_ = 0;
  AttentionSchedule schedule_;
  SpanAttention::Counts counts_;
  const GpuTables* tables_ = nullptr;
  GpuTables::Place<AttentionWork> work_;
  GpuTables::Place<int32_t> work_rows_, merge_begin_, merge_states_, block_table_, positions_;
  DeviceMemory parts_;
};

}  // namespace lombard
