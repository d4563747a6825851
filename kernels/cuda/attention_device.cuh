// What the attention kernels share: their parameters, and the choice of their instances.
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

}  // namespace lombard
