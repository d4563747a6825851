// Sums and maxima over a warp or a block.
#pragma once

#include "kernels/cuda/dialect.cuh"

namespace lombard {

constexpr unsigned kFullWarp = 0xffffffffu;

// All 32 lanes must call these; all get the result, the same bits.
LOMBARD_DEVICE float WarpSum(float x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(kFullWarp, x, step);
  return x;
}
LOMBARD_DEVICE float WarpMax(float x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(kFullWarp, x, step));
  return x;
}

// All threads of a one-dimensional block of whole warps must call it; all get the sum. scratch: 32 floats of
// shared memory, which others may use again after a barrier.
LOMBARD_DEVICE float BlockSum(float x, float* scratch) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  x = WarpSum(x);
  if (lane == 0) scratch[warp] = x;
  __syncthreads();
  return WarpSum(lane < warps ? scratch[lane] : 0.0f);
}

}  // namespace lombard
