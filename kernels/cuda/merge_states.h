// The merge of partial attention states on a GPU: parts of a split context, and what creditors have sent.
#pragma once

#include <cstdint>

#include "base/device/gpu_error.h"
#include "base/dtype.h"

namespace lombard {

// A part is the state (distattn/attention_state.h) of one row, all heads, over some of its keys. Row r is
// merged of the parts number part_ids[i] (or i itself, where part_ids is null) for i in
// [part_begin[r], part_begin[r + 1]), in this order:
//   m = largest max; sum = sum_i sum_i exp(max_i - m); acc = sum_i acc_i exp(max_i - m)
// The order alone decides the bits: callers list parts in the order of position. A part without keys
// (max -inf, sum 0) changes nothing. A row without keys: acc 0, max -inf, sum 0, out 0. All device memory,
// contiguous; results may not be parts.
struct GpuMergeStatesArgs {
  const float* acc = nullptr;           // [parts, heads, head_dim]
  const float* max = nullptr;           // [parts, heads]
  const float* sum = nullptr;           // [parts, heads]
  const int32_t* part_begin = nullptr;  // [rows + 1], not decreasing
  const int32_t* part_ids = nullptr;    // [part_begin[rows]] or null
  int64_t rows = 0;
  int heads = 0, head_dim = 0;
  // The state, to go on merging or to send; all three or none.
  float* acc_out = nullptr;  // [rows, heads, head_dim]
  float* max_out = nullptr;  // [rows, heads]
  float* sum_out = nullptr;  // [rows, heads]
  // acc / sum; or null.
  void* out = nullptr;  // [rows, heads, head_dim] of out_dtype
  DType out_dtype = DType::kF32;
};
GpuError GpuMergeStates(GpuStreamRef stream, const GpuMergeStatesArgs& args);

}  // namespace lombard
