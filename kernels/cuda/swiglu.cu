#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/swiglu.h"

namespace lombard {
namespace {

constexpr int kThreads = 256;  // a guess, until measured

template <class In, class Out>
struct Params {
  const In* gate;
  const In* up;
  Out* y;
  int64_t dim, in_stride, y_stride;
  unsigned blocks_per_row;
};

// A thread makes kCount neighbours; a row is cut into blocks_per_row blocks.
template <int kCount, class In, class Out>
__global__ void __launch_bounds__(kThreads) SwiGluKernel(const Params<In, Out> p) {
  const int64_t row = blockIdx.x / p.blocks_per_row;
  const int64_t i = (int64_t{blockIdx.x % p.blocks_per_row} * kThreads + threadIdx.x) * kCount;
  if (i >= p.dim) return;
  float gate[kCount], up[kCount];
  LoadFloats(p.gate + row * p.in_stride + i, gate);
  LoadFloats(p.up + row * p.in_stride + i, up);
#pragma unroll
  for (int j = 0; j < kCount; ++j) gate[j] = gate[j] / (1.0f + expf(-gate[j])) * up[j];
  StoreFloats(p.y + row * p.y_stride + i, gate);
}

}  // namespace

GpuError GpuSwiGlu(GpuStreamRef stream, const GpuSwiGluArgs& args) {
  const bool packs = args.dim % 8 == 0 && internal::PacksOf8(args.gate, args.in_stride) &&
                     internal::PacksOf8(args.up, args.in_stride) && internal::PacksOf8(args.y, args.y_stride);
  const int64_t per_block = int64_t{kThreads} * (packs ? 8 : 1);
  const unsigned blocks_per_row = static_cast<unsigned>((args.dim + per_block - 1) / per_block);
  return internal::ForTypes(
      args.in_dtype, args.y_dtype, [&]<class In, class Out>(internal::Type<In>, internal::Type<Out>) {
        const Params<In, Out> params{static_cast<const In*>(args.gate),
                                     static_cast<const In*>(args.up),
                                     static_cast<Out*>(args.y),
                                     args.dim,
                                     args.in_stride,
                                     args.y_stride,
                                     blocks_per_row};
        const LaunchShape shape{.grid = static_cast<unsigned>(args.rows) * blocks_per_row, .block = kThreads};
        return packs ? LOMBARD_LAUNCH((SwiGluKernel<8, In, Out>), stream, shape, params)
                     : LOMBARD_LAUNCH((SwiGluKernel<1, In, Out>), stream, shape, params);
      });
}

}  // namespace lombard
