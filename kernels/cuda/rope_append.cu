// One block a row: its cosines and sines once, then all heads.
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/rope_append.h"

namespace lombard {
namespace {

constexpr int kThreads = 128;  // a guess, until measured

template <class In, class Kv>
struct Params {
  const In* q;
  const In* k;
  const In* v;
  int64_t q_stride, k_stride, v_stride;
  int q_heads;
  const int32_t* positions;
  const double* inv_freq;
  float attention_factor;
  In* q_out;  // one of the two
  Kv* q_out_kv;
  int64_t q_out_stride;
  KvLayout layout;
  Kv* k_slab;
  Kv* v_slab;
  const int32_t* blocks;
  const int32_t* slots;
};

// Rotates kCount pairs from `from`, i on; writes them to `to`, which may be `from`.
template <int kCount, class In, class Out>
LOMBARD_DEVICE void RotatePairs(const In* from, Out* to, int i, int half, const float* cos,
                                const float* sin) {
  float low[kCount], high[kCount];
  LoadFloats(from + i, low);
  LoadFloats(from + half + i, high);
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    const float c = cos[i + j], s = sin[i + j], a = low[j], b = high[j];
    low[j] = a * c - b * s;
    high[j] = b * c + a * s;
  }
  StoreFloats(to + i, low);
  StoreFloats(to + half + i, high);
}

template <int kCount, class In, class Kv>
__global__ void __launch_bounds__(kThreads) RopeAppendKernel(const Params<In, Kv> p) {
  LOMBARD_DYNAMIC_SHARED(float, cos_of);  // [half], then as many sines
  const int64_t row = blockIdx.x;
  const int dim = p.layout.head_dim, half = dim / 2;
  float* const sin_of = cos_of + half;
  for (int i = threadIdx.x; i < half; i += kThreads) {
    const double angle = p.positions[row] * p.inv_freq[i];
    cos_of[i] = static_cast<float>(cos(angle) * p.attention_factor);
    sin_of[i] = static_cast<float>(sin(angle) * p.attention_factor);
  }
  __syncthreads();

  const int slot = p.slots[row], pieces = half / kCount;
  const int kv_heads = p.blocks[row] < 0 ? 0 : p.layout.kv_heads;  // whose keys and values are stored
  Kv* const k_block = p.k_slab + p.blocks[row] * p.layout.block_elements();
  Kv* const v_block = p.v_slab + p.blocks[row] * p.layout.block_elements();
  for (int n = threadIdx.x; n < (p.q_heads + kv_heads) * pieces; n += kThreads) {
    const int head = n / pieces, i = n % pieces * kCount;
    if (head >= p.q_heads) {
      const int kv_head = head - p.q_heads;
      RotatePairs<kCount>(p.k + row * p.k_stride + int64_t{kv_head} * dim,
                          k_block + p.layout.offset(kv_head, slot), i, half, cos_of, sin_of);
      continue;
    }
    const In* const from = p.q + row * p.q_stride + int64_t{head} * dim;
    const int64_t to = row * p.q_out_stride + int64_t{head} * dim;
    if (p.q_out != nullptr) {
      RotatePairs<kCount>(from, p.q_out + to, i, half, cos_of, sin_of);
    } else {
      RotatePairs<kCount>(from, p.q_out_kv + to, i, half, cos_of, sin_of);
    }
  }
  for (int n = threadIdx.x; n < kv_heads * 2 * pieces; n += kThreads) {
    const int kv_head = n / (2 * pieces), i = n % (2 * pieces) * kCount;
    float v[kCount];
    LoadFloats(p.v + row * p.v_stride + int64_t{kv_head} * dim + i, v);
    StoreFloats(v_block + p.layout.offset(kv_head, slot) + i, v);
  }
}

}  // namespace

GpuError GpuRopeAppend(GpuStreamRef stream, const GpuRopeAppendArgs& args) {
  const int dim = args.layout.head_dim;
  CHECK_EQ(dim % 2, 0);
  CHECK(args.q_dtype == args.in_dtype || args.q_dtype == args.layout.dtype)
      << std::string(DTypeName(args.q_dtype));
  const bool packs = dim % 16 == 0 && internal::PacksOf8(args.q, args.q_stride) &&
                     internal::PacksOf8(args.k, args.k_stride) && internal::PacksOf8(args.v, args.v_stride) &&
                     internal::PacksOf8(args.q_out, args.q_out_stride) &&
                     internal::PacksOf8(args.k_slab, 0) && internal::PacksOf8(args.v_slab, 0);
  return internal::ForTypes(
      args.in_dtype, args.layout.dtype, [&]<class In, class Kv>(internal::Type<In>, internal::Type<Kv>) {
        const bool as_in = args.q_dtype == args.in_dtype;
        const Params<In, Kv> params{static_cast<const In*>(args.q),
                                    static_cast<const In*>(args.k),
                                    static_cast<const In*>(args.v),
                                    args.q_stride,
                                    args.k_stride,
                                    args.v_stride,
                                    args.q_heads,
                                    args.positions,
                                    args.inv_freq,
                                    args.attention_factor,
                                    as_in ? static_cast<In*>(args.q_out) : nullptr,
                                    as_in ? nullptr : static_cast<Kv*>(args.q_out),
                                    args.q_out_stride,
                                    args.layout,
                                    static_cast<Kv*>(args.k_slab),
                                    static_cast<Kv*>(args.v_slab),
                                    args.blocks,
                                    args.slots};
        const LaunchShape shape{.grid = static_cast<unsigned>(args.rows),
                                .block = kThreads,
                                .shared_bytes = static_cast<uint32_t>(dim * sizeof(float))};
        return packs ? LOMBARD_LAUNCH((RopeAppendKernel<8, In, Kv>), stream, shape, params)
                     : LOMBARD_LAUNCH((RopeAppendKernel<1, In, Kv>), stream, shape, params);
      });
}

}  // namespace lombard
