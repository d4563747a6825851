// Partial attention on a GPU: what query rows learn from some keys, those of spans in KV blocks of this
// device. Formula, masks and states are those of kernels/attention.h.
//
//   once per step:  PlanAttention, its arrays to the device
//   per layer:      GpuPartialAttention; other states arrive; the merge of merge_states
#pragma once

#include <cstdint>

#include "base/device/gpu_error.h"
#include "kernels/cuda/attention_work.h"

namespace lombard {

// A schedule's arrays in device memory. Counts may be larger than the schedule's, for graphs that are
// launched again with other tables: work behind the schedule's must then have rows = 0.
struct GpuAttentionTables {
  const AttentionWork* work[kAttentionKernels] = {};  // of each kernel
  int work_count[kAttentionKernels] = {};
  const int32_t* rows = nullptr;         // AttentionSchedule::rows
  const int32_t* positions = nullptr;    // [rows of the step]
  const int32_t* block_table = nullptr;  // block ids

  // `all`: AttentionSchedule::work.
  void SetWork(const AttentionWork* all, const int (&counts)[kAttentionKernels]) {
    for (int kernel = 0; kernel < kAttentionKernels; all += counts[kernel++])
      work[kernel] = all, work_count[kernel] = counts[kernel];
  }
};

// REQUIRES: the keys between the first and the last that rows of one piece of work see are stored; others,
// and unused slots, are never read into a result, nor are blocks with none of the former ones. Pointers are
// device memory; q, k, v and acc 16-byte aligned.
struct GpuAttentionArgs {
  GpuAttentionTables tables;
  const void* q = nullptr;  // [rows of the step, q_heads, head_dim] of layout.dtype, after RoPE
  int64_t q_stride = 0;     // elements between rows, a multiple of 8
  const void* k = nullptr;  // one layer's slab: [blocks, kv_heads, block_tokens, head_dim]
  const void* v = nullptr;
  KvLayout layout;  // any dtype; head_dim a multiple of 8, at most kAttentionHeadDimMax
  int q_heads = 0;
  int window = 0;   // 0: none
  float scale = 1;  // > 0
  // States by state row. A row that sees no key of its part: 0, -inf, 0.
  float* acc = nullptr;  // [state rows, q_heads, head_dim]
  float* max = nullptr;  // [state rows, q_heads]
  float* sum = nullptr;  // [state rows, q_heads]
};
constexpr int kAttentionHeadDimMax = 1024;
GpuError GpuPartialAttention(GpuStreamRef stream, const GpuAttentionArgs& args);

}  // namespace lombard
