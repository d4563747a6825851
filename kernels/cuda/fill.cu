#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/fill.h"
#include "kernels/cuda/launch.cuh"

namespace lombard {
namespace {

constexpr int kThreads = 256, kEach = 64;

// The finaliser of MurmurHash3 (Appleby): every bit of the input reaches every bit of the output.
LOMBARD_DEVICE uint32_t Mix(uint32_t x) {
  x = (x ^ x >> 16) * 0x85ebca6bu;
  x = (x ^ x >> 13) * 0xc2b2ae35u;
  return x ^ x >> 16;
}

template <class T>
__global__ void __launch_bounds__(kThreads) FillKernel(T* data, int64_t count, float scale, uint32_t seed) {
  const int64_t first = int64_t{blockIdx.x} * kThreads * kEach + threadIdx.x;
  for (int j = 0; j < kEach; ++j) {
    const int64_t i = first + int64_t{j} * kThreads;
    if (i >= count) return;
    const uint32_t bits =
        Mix(static_cast<uint32_t>(i) ^ Mix(static_cast<uint32_t>(i >> 32) + 0x9e3779b9u * seed));
    data[i] = FromFloat<T>((static_cast<float>(bits >> 8) * 0x1p-23f - 1) * scale);
  }
}

}  // namespace

GpuError GpuFillRandom(GpuStreamRef stream, DType dtype, void* data, int64_t count, float scale,
                       uint32_t seed) {
  constexpr int64_t kBlock = int64_t{kThreads} * kEach;
  return internal::ForType(dtype, [&]<class T>(internal::Type<T>) {
    return LOMBARD_LAUNCH((FillKernel<T>), stream,
                          {.grid = static_cast<unsigned>((count + kBlock - 1) / kBlock), .block = kThreads},
                          static_cast<T*>(data), count, scale, seed);
  });
}

}  // namespace lombard
