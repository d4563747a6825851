// The sizes of a step on a GPU that its launches depend on: grids, and where its arrays lie. Steps of one
// shape are the same launches over other tables, so one graph (base/device/gpu_graph.h) runs them all. For
// that, steps are filled up to one of a few shapes, with rows that store nothing and are not sampled, and
// with pieces of attention that have no rows.
#pragma once

#include <compare>
#include <cstdint>

#include "kernels/cuda/attention_schedule.h"

namespace lombard {

struct GpuStepShape {
  int32_t rows = 0;                      // query rows, each sampled from
  int32_t work[kAttentionKernels] = {};  // pieces of attention, of each kernel
  int32_t listed_rows = 0;               // AttentionSchedule::rows
  int32_t merged_states = 0;             // AttentionSchedule::merge_states
  auto operator<=>(const GpuStepShape&) const = default;
};

// Rows of a step that is filled up: 1, 2, 4, 8, then 2^k and 3 * 2^k, so at most half more; never beyond
// `rows_max`, which memory was taken for. REQUIRES: 1 <= rows <= rows_max.
int PaddedRows(int rows, int rows_max);

// The least count that is `count` or more and k * 2^j with 8 <= k < 16: at most an eighth more. Small ones
// stay.
int PaddedCount(int count);

// Of a schedule for `rows` rows, those that fill up included; its counts become those of the answer. What is
// added does nothing: no state row, no row of the step refers to it.
GpuStepShape PadSchedule(int rows, AttentionSchedule* schedule);

}  // namespace lombard
