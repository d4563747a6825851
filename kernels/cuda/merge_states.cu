// One warp a row and head; its lanes share the dimensions.
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/merge_states.h"

namespace lombard {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32;  // a guess, until measured

// e^(max - largest), 0 for a part without keys, also when no part has any.
LOMBARD_DEVICE float WeightOf(float max, float largest) {
  return max == -INFINITY ? 0.0f : expf(max - largest);
}

template <class Out>
__global__ void __launch_bounds__(kThreads) MergeStatesKernel(const GpuMergeStatesArgs p) {
  const int64_t item = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  const int lane = threadIdx.x % 32, heads = p.heads, dim = p.head_dim;
  if (item >= p.rows * heads) return;
  const int64_t row = item / heads, head = item % heads;
  const int begin = p.part_begin[row], end = p.part_begin[row + 1];
  const auto part_at = [&](int i) {
    return (p.part_ids == nullptr ? i : p.part_ids[i]) * int64_t{heads} + head;
  };

  float largest = -INFINITY, sum = 0;
  for (int i = begin; i < end; ++i) largest = fmaxf(largest, p.max[part_at(i)]);
  for (int i = begin; i < end; ++i) sum += p.sum[part_at(i)] * WeightOf(p.max[part_at(i)], largest);
  const float scale = sum == 0.0f ? 0.0f : 1.0f / sum;
  for (int d = lane; d < dim; d += 32) {
    float acc = 0;
    for (int i = begin; i < end; ++i) {
      const int64_t part = part_at(i);
      acc += p.acc[part * dim + d] * WeightOf(p.max[part], largest);
    }
    if (p.acc_out != nullptr) p.acc_out[item * dim + d] = acc;
    if (p.out != nullptr) static_cast<Out*>(p.out)[item * dim + d] = FromFloat<Out>(acc * scale);
  }
  if (p.acc_out != nullptr && lane == 0) {
    p.max_out[item] = largest;
    p.sum_out[item] = sum;
  }
}

}  // namespace

GpuError GpuMergeStates(GpuStreamRef stream, const GpuMergeStatesArgs& args) {
  CHECK((args.acc_out == nullptr) == (args.max_out == nullptr) &&
        (args.acc_out == nullptr) == (args.sum_out == nullptr));
  const unsigned blocks = static_cast<unsigned>((args.rows * args.heads + kWarps - 1) / kWarps);
  return internal::ForType(args.out_dtype, [&]<class Out>(internal::Type<Out>) {
    return LOMBARD_LAUNCH(MergeStatesKernel<Out>, stream, {.grid = blocks, .block = kThreads}, args);
  });
}

}  // namespace lombard
