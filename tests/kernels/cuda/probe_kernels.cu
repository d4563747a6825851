#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/reduce.cuh"
#include "tests/kernels/cuda/probe_kernels.h"

namespace lombard {
namespace {

template <class T>
__global__ void MatrixProductKernel(const T* a, const T* b, bool b_columns, float* c) {
  LOMBARD_SHARED(T, a_tile, 16 * 16);
  LOMBARD_SHARED(T, b_tile, 16 * 8);
  const int lane = threadIdx.x, g = lane / 4, t = lane % 4;
  ptx::CpAsync16(a_tile + 8 * lane, a + 8 * lane);
  if (lane < 16) ptx::CpAsync16(b_tile + 8 * lane, b + 8 * lane);
  ptx::CpAsyncCommit();
  ptx::CpAsyncWait<0>();
  __syncwarp();
  uint32_t a_fragment[4], b_both[4];
  // Matrix m of A: rows 8 (m % 2) and on, columns 8 (m / 2) and on.
  ptx::LdMatrixX4(a_fragment, a_tile + (lane % 16) * 16 + lane / 16 * 8);
  if (b_columns) {
    // Column n is a row of 16; matrices 0 and 1 are its halves, 2 and 3 the same again.
    ptx::LdMatrixX4(b_both, b_tile + (lane % 8) * 16 + lane / 8 % 2 * 8);
  } else {
    ptx::LdMatrixX4Transposed(b_both, b_tile + (lane % 16) * 8);
  }
  const uint32_t b_fragment[2] = {b_both[0], b_both[1]};
  float sums[4];
  for (int i = 0; i < 4; ++i) sums[i] = c[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
  ptx::Mma16x8x16<T>(sums, a_fragment, b_fragment);
  for (int i = 0; i < 4; ++i) c[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = sums[i];
}

__global__ void Exp2Kernel(const float* x, float* y, int count) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) y[i] = ptx::Exp2(x[i]);
}

__global__ void ShuffleKernel(int* out) {
  const int lane = threadIdx.x;
  out[lane] = __shfl_sync(kFullWarp, lane, 5);
  out[32 + lane] = __shfl_up_sync(kFullWarp, lane, 3);
  out[64 + lane] = __shfl_down_sync(kFullWarp, lane, 3);
  out[96 + lane] = __shfl_xor_sync(kFullWarp, lane, 6);
  out[128 + lane] = __shfl_sync(kFullWarp, lane, 5, 8);
  out[160 + lane] = __shfl_up_sync(kFullWarp, lane, 3, 8);
  out[192 + lane] = __shfl_down_sync(kFullWarp, lane, 3, 8);
}

__global__ void TransposeKernel(const uint32_t* in, uint32_t* out) {
  out[threadIdx.x] = ptx::TransposeMatrix(in[threadIdx.x]);
}

__global__ void AsyncCopyKernel(const uint4* src, const int* valid, uint4* dst, int pieces) {
  LOMBARD_DYNAMIC_SHARED(uint4, tile);
  const int half = pieces / 2;
  for (int i = threadIdx.x; i < half; i += blockDim.x) ptx::CpAsync16(tile + i, src + i, valid[i] != 0);
  ptx::CpAsyncCommit();
  for (int i = half + threadIdx.x; i < pieces; i += blockDim.x)
    ptx::CpAsync16(tile + i, src + i, valid[i] != 0);
  ptx::CpAsyncCommit();
  ptx::CpAsyncWait<1>();
  __syncthreads();
  // In another order than they came.
  for (int i = threadIdx.x; i < half; i += blockDim.x) dst[half - 1 - i] = tile[half - 1 - i];
  ptx::CpAsyncWait<0>();
  __syncthreads();
  for (int i = half + threadIdx.x; i < pieces; i += blockDim.x)
    dst[pieces - 1 + half - i] = tile[pieces - 1 + half - i];
}

}  // namespace

GpuError ProbeMatrixProduct(GpuStreamRef stream, DType dtype, const void* a, const void* b, bool b_columns,
                            float* c) {
  if (dtype == DType::kF16) {
    return LOMBARD_LAUNCH(MatrixProductKernel<Half>, stream, {.block = 32}, static_cast<const Half*>(a),
                          static_cast<const Half*>(b), b_columns, c);
  }
  return LOMBARD_LAUNCH(MatrixProductKernel<BFloat16>, stream, {.block = 32}, static_cast<const BFloat16*>(a),
                        static_cast<const BFloat16*>(b), b_columns, c);
}

GpuError ProbeExp2(GpuStreamRef stream, const float* x, float* y, int count) {
  return LOMBARD_LAUNCH(Exp2Kernel, stream, {.grid = static_cast<unsigned>(count + 127) / 128, .block = 128},
                        x, y, count);
}

GpuError ProbeShuffles(GpuStreamRef stream, int* out) {
  return LOMBARD_LAUNCH(ShuffleKernel, stream, {.block = 32}, out);
}

GpuError ProbeTranspose(GpuStreamRef stream, const uint32_t* in, uint32_t* out) {
  return LOMBARD_LAUNCH(TransposeKernel, stream, {.block = 32}, in, out);
}

GpuError ProbeAsyncCopy(GpuStreamRef stream, const void* src, const int* valid, void* dst, int pieces) {
  return LOMBARD_LAUNCH(AsyncCopyKernel, stream,
                        {.block = 64, .shared_bytes = static_cast<uint32_t>(pieces) * 16},
                        static_cast<const uint4*>(src), valid, static_cast<uint4*>(dst), pieces);
}

}  // namespace lombard
