// Rotary embedding of queries and keys, and the append of keys and values to their KV blocks, in one pass.
#pragma once

#include <cstdint>

#include "base/device/gpu_error.h"
#include "kernels/kv_layout.h"

namespace lombard {

// Hugging Face's layout (rotates the pairs i, i + head_dim / 2):
//   angle = positions[r] * inv_freq[i], in float64; cos and sin times attention_factor, then fp32
// q_out = rotated q; the rotated k and the v as it is go, rounded to layout.dtype, to slot slots[r] of block
// blocks[r], or nowhere where that is negative. All device memory, the tables too. Rows are `*_stride`
// elements apart. REQUIRES: no two rows with the same slot; head_dim even. q_out may be q where the types are
// equal. 16-byte accesses where head_dim is a multiple of 16, strides are of 8, pointers of 16 bytes.
struct GpuRopeAppendArgs {
  const void* q = nullptr;  // [rows, q_heads, head_dim] of in_dtype
  const void* k = nullptr;  // [rows, kv_heads, head_dim] of in_dtype
  const void* v = nullptr;
  DType in_dtype = DType::kF32;  // fp32, or layout.dtype
  int64_t q_stride = 0, k_stride = 0, v_stride = 0;
  int rows = 0, q_heads = 0;
  const int32_t* positions = nullptr;  // [rows]
  const double* inv_freq = nullptr;    // [head_dim / 2]
  float attention_factor = 1;
  void* q_out = nullptr;        // [rows, q_heads, head_dim] of q_dtype
  DType q_dtype = DType::kF32;  // in_dtype, or layout.dtype
  int64_t q_out_stride = 0;
  KvLayout layout;
  void* k_slab = nullptr;  // one layer's: [blocks, kv_heads, block_tokens, head_dim]
  void* v_slab = nullptr;
  const int32_t* blocks = nullptr;  // [rows]
  const int32_t* slots = nullptr;   // [rows]
};
GpuError GpuRopeAppend(GpuStreamRef stream, const GpuRopeAppendArgs& args);

}  // namespace lombard
