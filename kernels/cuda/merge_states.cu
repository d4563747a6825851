// A team of warps for each row and head, whose lanes share the dimensions. Parts are added up in chunks of 8,
// all loads of a chunk in flight at once, and the chunks' sums in order, whoever computed them: one warp does
// a row alone where rows are many; where they are few, 8 warps take chunks in turn, since a long request's
// context has been split into a hundred parts and more. Both give the same bits.
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/merge_states.h"
#include "kernels/cuda/reduce.cuh"

namespace lombard {
namespace {

constexpr int kWarps = 8, kChunk = 8;
constexpr int64_t kItemsThatFill = 1056;  // 8 warps for each of 132 processors; a guess, until measured

// e^(max - largest), 0 for a part without keys, also when no part has any.
LOMBARD_DEVICE float WeightOf(float max, float largest) {
  return max == -INFINITY ? 0.0f : expf(max - largest);
}

// What is merged into one row and head.
struct Item {
  const GpuMergeStatesArgs& p;
  int64_t head;
  int begin, end;
  float largest, scale;

  LOMBARD_DEVICE int64_t Part(int i) const {
    return (p.part_ids == nullptr ? i : p.part_ids[i]) * int64_t{p.heads} + head;
  }
};

// sum of acc * weight over parts [first, first + kChunk), dimensions [d, d + kCount).
template <int kCount>
LOMBARD_DEVICE void AddChunk(const Item& item, int first, int d, float (&sum)[kCount]) {
  float weight[kChunk], x[kChunk][kCount];
#pragma unroll
  for (int j = 0; j < kChunk; ++j) {
    const bool is = first + j < item.end;
    const int64_t part = is ? item.Part(first + j) : 0;
    weight[j] = is ? WeightOf(item.p.max[part], item.largest) : 0.0f;
#pragma unroll
    for (int i = 0; i < kCount; ++i) x[j][i] = 0;
    if (is) LoadFloats(item.p.acc + part * item.p.head_dim + d, x[j]);
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) sum[i] = 0;
#pragma unroll
  for (int j = 0; j < kChunk; ++j) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) sum[i] += x[j][i] * weight[j];
  }
}

// kCount dimensions a lane at a time. chunks: [kWarps, 32 kCount] of shared memory.
template <int kTeam, int kCount, class Out>
LOMBARD_DEVICE void MergeDimensions(const Item& item, int64_t at, float* chunks) {
  const GpuMergeStatesArgs& p = item.p;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, dim = p.head_dim;
  for (int first_d = 0; first_d < dim; first_d += 32 * kCount) {
    const int d = first_d + lane * kCount;
    float total[kCount] = {}, sum[kCount];
    for (int first = item.begin; first < item.end; first += kTeam * kChunk) {
      if constexpr (kTeam == 1) {
        if (d < dim) AddChunk(item, first, d, sum);
#pragma unroll
        for (int i = 0; i < kCount; ++i) total[i] += d < dim ? sum[i] : 0.0f;
      } else {
        const int mine = first + warp * kChunk;
        if (d < dim && mine < item.end) {
          AddChunk(item, mine, d, sum);
#pragma unroll
          for (int i = 0; i < kCount; ++i) chunks[warp * 32 * kCount + lane * kCount + i] = sum[i];
        }
        __syncthreads();
        for (int w = 0; w < kTeam && first + w * kChunk < item.end; ++w) {
#pragma unroll
          for (int i = 0; i < kCount; ++i)
            total[i] += d < dim ? chunks[w * 32 * kCount + lane * kCount + i] : 0.0f;
        }
        __syncthreads();  // the chunks are read
      }
    }
    if (d >= dim || (kTeam > 1 && warp != 0)) continue;
    if (p.acc_out != nullptr) StoreFloats(p.acc_out + at * dim + d, total);
    if (p.out != nullptr) {
      Out* const out = static_cast<Out*>(p.out) + at * dim + d;
#pragma unroll
      for (int i = 0; i < kCount; ++i) out[i] = FromFloat<Out>(total[i] * item.scale);
    }
  }
}

template <int kTeam, class Out>
__global__ void __launch_bounds__(32 * kWarps) MergeStatesKernel(const GpuMergeStatesArgs p, bool packs) {
  LOMBARD_SHARED(float, chunks, kWarps * 32 * 4);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t at = int64_t{blockIdx.x} * (kWarps / kTeam) + warp / kTeam;
  if (at >= p.rows * p.heads) return;  // the whole team, which is the block or waits for nobody
  const int64_t row = at / p.heads;
  Item item{p, at % p.heads, p.part_begin[row], p.part_begin[row + 1], -INFINITY, 0};
  for (int i = item.begin + lane; i < item.end; i += 32)
    item.largest = fmaxf(item.largest, p.max[item.Part(i)]);
  item.largest = WarpMax(item.largest);
  float sum = 0;
  for (int i = item.begin + lane; i < item.end; i += 32) {
    const int64_t part = item.Part(i);
    sum += p.sum[part] * WeightOf(p.max[part], item.largest);
  }
  sum = WarpSum(sum);
  item.scale = sum == 0.0f ? 0.0f : 1.0f / sum;
  if (packs) {
    MergeDimensions<kTeam, 4, Out>(item, at, chunks);
  } else {
    MergeDimensions<kTeam, 1, Out>(item, at, chunks);
  }
  if (p.acc_out != nullptr && lane == 0 && warp % kTeam == 0) {
    p.max_out[at] = item.largest;
    p.sum_out[at] = sum;
  }
}

}  // namespace

GpuError GpuMergeStates(GpuStreamRef stream, const GpuMergeStatesArgs& args) {
  CHECK((args.acc_out == nullptr) == (args.max_out == nullptr) &&
        (args.acc_out == nullptr) == (args.sum_out == nullptr));
  const bool packs = args.head_dim % 4 == 0 && reinterpret_cast<uintptr_t>(args.acc) % 16 == 0 &&
                     reinterpret_cast<uintptr_t>(args.acc_out) % 16 == 0;
  const int64_t items = args.rows * args.heads;
  return internal::ForType(args.out_dtype, [&]<class Out>(internal::Type<Out>) {
    if (items < kItemsThatFill) {
      return LOMBARD_LAUNCH((MergeStatesKernel<kWarps, Out>), stream,
                            {.grid = static_cast<unsigned>(items), .block = 32 * kWarps}, args, packs);
    }
    return LOMBARD_LAUNCH(
        (MergeStatesKernel<1, Out>), stream,
        {.grid = static_cast<unsigned>((items + kWarps - 1) / kWarps), .block = 32 * kWarps}, args, packs);
  });
}

}  // namespace lombard
