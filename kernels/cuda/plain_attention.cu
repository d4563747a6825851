// The plain path: fp32 arithmetic, any type and head_dim. A warp takes one query column at a time: lanes take
// keys for the scores and dimensions for the sums. For correctness, not for speed.
#include "kernels/cuda/attention_device.cuh"
#include "kernels/cuda/attention_launches.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"

namespace lombard {
namespace {

constexpr int kWarps = 4;

template <class T>
__global__ void __launch_bounds__(32 * kWarps) PlainAttentionKernel(const AttentionParams<T> p) {
  LOMBARD_DYNAMIC_SHARED(float, shared);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int kv_head = blockIdx.x % p.kv_heads, dim = p.head_dim;
  const AttentionWork work = p.work[blockIdx.x / p.kv_heads];
  float* const q = shared + warp * (2 * dim + 32);
  float* const acc = q + dim;
  float* const weights = acc + dim;
  const int32_t* const blocks = p.block_table + work.first_block;

  for (int column = warp; column < work.rows * p.group; column += kWarps) {
    const int row = p.rows[work.first_row + column / p.group];
    const int q_head = kv_head * p.group + column % p.group;
    for (int d = lane; d < dim; d += 32) {
      q[d] = ToFloat(p.q[row * p.q_stride + int64_t{q_head} * dim + d]);
      acc[d] = 0;  // of this lane alone
    }
    __syncwarp();
    const KeyRange keys = VisibleKeys(work, p.positions[row], p.window);
    float max = -INFINITY, sum = 0;
    for (int first = keys.begin; first < keys.end; first += 32) {
      const int key = first + lane;
      float score = -INFINITY;
      if (key < keys.end) {
        const T* const k = p.k + KeyOffset(blocks, key, p.block_tokens, p.kv_heads, kv_head, dim);
        float dot = 0, part[8];
        for (int d = 0; d < dim; d += 8) {
          LoadFloats(k + d, part);
#pragma unroll
          for (int i = 0; i < 8; ++i) dot += q[d + i] * part[i];
        }
        score = dot * p.scale;
      }
      const float new_max = fmaxf(max, WarpMax(score));  // finite: lane 0 has a key
      const float correction = expf(max - new_max), weight = expf(score - new_max);
      max = new_max;
      sum = sum * correction + WarpSum(weight);
      weights[lane] = weight;
      __syncwarp();
      const int count = min(32, keys.end - first);
      for (int d = lane; d < dim; d += 32) acc[d] *= correction;
      for (int j = 0; j < count; ++j) {
        const T* const v = p.v + KeyOffset(blocks, first + j, p.block_tokens, p.kv_heads, kv_head, dim);
        for (int d = lane; d < dim; d += 32) acc[d] += weights[j] * ToFloat(v[d]);
      }
      __syncwarp();  // the weights are read
    }
    const int64_t state = (int64_t{work.first_state} + column / p.group) * p.kv_heads * p.group + q_head;
    for (int d = lane; d < dim; d += 32) p.acc[state * dim + d] = acc[d];
    if (lane == 0) p.max[state] = max, p.sum[state] = sum;
    __syncwarp();  // q is read
  }
}

}  // namespace

GpuError internal::PlainAttention(GpuStreamRef stream, const GpuAttentionArgs& args) {
  return ForType(args.layout.dtype, [&]<class T>(Type<T>) {
    const uint32_t shared_bytes = kWarps * (2 * args.layout.head_dim + 32) * sizeof(float);
    return LOMBARD_LAUNCH((PlainAttentionKernel<T>), stream,
                          {.grid = AttentionGrid(args, AttentionKernel::kPlain),
                           .block = 32 * kWarps,
                           .shared_bytes = shared_bytes},
                          MakeAttentionParams<T>(args, AttentionKernel::kPlain));
  });
}

}  // namespace lombard
