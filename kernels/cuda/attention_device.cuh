// What the attention kernels share: which keys a piece of work sees, and where they lie.
#pragma once

#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/partial_attention.h"

namespace lombard {

// The parameters of every attention kernel; T is the element type of q, k and v.
template <class T>
struct AttentionParams {
  const AttentionWork* work;
  const int32_t* rows;
  const int32_t* positions;
  const int32_t* block_table;
  const T* q;
  const T* k;
  const T* v;
  float* acc;
  float* max;
  float* sum;
  int64_t q_stride;
  int32_t kv_heads, group, head_dim, block_tokens;
  int32_t window;
  float scale;
};

template <class T>
AttentionParams<T> MakeAttentionParams(const GpuAttentionArgs& args, AttentionKernel kernel) {
  const GpuAttentionTables& tables = args.tables;
  return {.work = tables.work[static_cast<int>(kernel)],
          .rows = tables.rows,
          .positions = tables.positions,
          .block_table = tables.block_table,
          .q = static_cast<const T*>(args.q),
          .k = static_cast<const T*>(args.k),
          .v = static_cast<const T*>(args.v),
          .acc = args.acc,
          .max = args.max,
          .sum = args.sum,
          .q_stride = args.q_stride,
          .kv_heads = args.layout.kv_heads,
          .group = args.q_heads / args.layout.kv_heads,
          .head_dim = args.layout.head_dim,
          .block_tokens = args.layout.block_tokens,
          .window = args.window,
          .scale = args.scale};
}
// One block per piece and KV head: blockIdx.x = piece * kv_heads + KV head.
inline unsigned AttentionGrid(const GpuAttentionArgs& args, AttentionKernel kernel) {
  return static_cast<unsigned>(args.tables.work_count[static_cast<int>(kernel)] * args.layout.kv_heads);
}

// f(FastShape<T, head_dim>()) for the one of HasFastAttention's that is meant.
template <class T, int kDim>
struct FastShape {};
template <class F>
GpuError ForFastAttention(const KvLayout& layout, F f) {
  CHECK(HasFastAttention(layout));
  const auto for_type = [&]<class T>(internal::Type<T>) -> GpuError {
    switch (layout.head_dim) {
      case 64:
        return f(FastShape<T, 64>());
      case 80:
        return f(FastShape<T, 80>());
      case 96:
        return f(FastShape<T, 96>());
      default:
        return f(FastShape<T, 128>());
    }
  };
  return layout.dtype == DType::kF16 ? for_type(internal::Type<Half>())
                                     : for_type(internal::Type<BFloat16>());
}

// Keys [begin, end) of a span, counted from its first.
struct KeyRange {
  int32_t begin, end;
};

// What a row at `position` sees of the piece's part.
LOMBARD_HOST_DEVICE constexpr KeyRange VisibleKeys(const AttentionWork& work, int32_t position,
                                                   int32_t window) {
  const int32_t last = position - work.first_position;  // its own place in the span
  KeyRange keys{work.first_key, work.first_key + work.key_count};
  if (last + 1 < keys.end) keys.end = last + 1;
  if (window > 0 && last - window + 1 > keys.begin) keys.begin = last - window + 1;
  if (keys.end < keys.begin) keys.end = keys.begin;
  return keys;
}

// What any row of the piece sees, and what lies between.
LOMBARD_HOST_DEVICE constexpr KeyRange KeysOfPiece(const AttentionWork& work, int32_t window) {
  KeyRange keys{work.first_key, work.first_key + work.key_count};
  const int32_t last = work.position_max - work.first_position;
  if (last + 1 < keys.end) keys.end = last + 1;
  const int32_t first = work.position_min - work.first_position - window + 1;
  if (window > 0 && first > keys.begin) keys.begin = first;
  if (keys.begin > keys.end) keys.begin = keys.end;
  return keys;
}

// In elements from the start of the slab: key number `key` of the span that starts at `blocks`.
LOMBARD_HOST_DEVICE int64_t KeyOffset(const int32_t* blocks, int32_t key, int32_t block_tokens,
                                      int32_t kv_heads, int32_t kv_head, int32_t head_dim) {
  const int64_t block = blocks[key / block_tokens];
  return ((block * kv_heads + kv_head) * block_tokens + key % block_tokens) * head_dim;
}

}  // namespace lombard
