// One block a row. The row is read twice, the second time from the caches; a thread reads what itself wrote.
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/rms_norm.h"

namespace lombard {
namespace {

constexpr int kThreads = 256;  // a guess, until measured

template <class X, class Y>
struct Params {
  const X* x;
  float* residual;
  const float* weight;
  Y* y;
  int64_t dim, x_stride, residual_stride, y_stride;
  float eps;
  bool packs;
};

// kCount elements at a time.
template <int kCount, class X, class Y>
LOMBARD_DEVICE void NormalizeRow(const Params<X, Y>& p, float* scratch) {
  const int64_t row = blockIdx.x;
  const X* const x = p.x + row * p.x_stride;
  float* const residual = p.residual == nullptr ? nullptr : p.residual + row * p.residual_stride;
  const int64_t step = int64_t{blockDim.x} * kCount;
  float v[kCount], other[kCount], squares = 0;
  for (int64_t i = int64_t{threadIdx.x} * kCount; i < p.dim; i += step) {
    LoadFloats(x + i, v);
    if (residual != nullptr) {
      LoadFloats(residual + i, other);
#pragma unroll
      for (int j = 0; j < kCount; ++j) v[j] += other[j];
      StoreFloats(residual + i, v);
    }
#pragma unroll
    for (int j = 0; j < kCount; ++j) squares += v[j] * v[j];
  }
  const float mean = BlockSum(squares, scratch) / static_cast<float>(p.dim);
  const float scale = 1.0f / sqrtf(mean + p.eps);
  for (int64_t i = int64_t{threadIdx.x} * kCount; i < p.dim; i += step) {
    if (residual != nullptr) {
      LoadFloats(residual + i, v);
    } else {
      LoadFloats(x + i, v);
    }
    LoadFloats(p.weight + i, other);
#pragma unroll
    for (int j = 0; j < kCount; ++j) v[j] = v[j] * scale * other[j];
    StoreFloats(p.y + row * p.y_stride + i, v);
  }
}

template <class X, class Y>
__global__ void __launch_bounds__(kThreads) RmsNormKernel(const Params<X, Y> p) {
  LOMBARD_SHARED(float, scratch, 32);
  if (p.packs) {
    NormalizeRow<8>(p, scratch);
  } else {
    NormalizeRow<1>(p, scratch);
  }
}

}  // namespace

GpuError GpuRmsNorm(GpuStreamRef stream, const GpuRmsNormArgs& args) {
  const bool packs = args.dim % 8 == 0 && internal::PacksOf8(args.x, args.x_stride) &&
                     internal::PacksOf8(args.residual, args.residual_stride) &&
                     internal::PacksOf8(args.weight, 0) && internal::PacksOf8(args.y, args.y_stride);
  return internal::ForTypes(
      args.x_dtype, args.y_dtype, [&]<class X, class Y>(internal::Type<X>, internal::Type<Y>) {
        const Params<X, Y> params{static_cast<const X*>(args.x),
                                  args.residual,
                                  args.weight,
                                  static_cast<Y*>(args.y),
                                  args.dim,
                                  args.x_stride,
                                  args.residual_stride,
                                  args.y_stride,
                                  args.eps,
                                  packs};
        return LOMBARD_LAUNCH((RmsNormKernel<X, Y>), stream,
                              {.grid = static_cast<unsigned>(args.rows), .block = kThreads}, params);
      });
}

}  // namespace lombard
