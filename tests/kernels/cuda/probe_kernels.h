// Kernels that do nothing but use an instruction of kernels/cuda/ptx.cuh, so that one test holds for the
// hardware and for the emulation.
#pragma once

#include <cstdint>

#include "base/device/gpu_error.h"
#include "base/dtype.h"

namespace lombard {

// c [16, 8] += a [16, 16] b, of 16-bit elements, through shared memory by cp.async and ldmatrix. b is [16, 8]
// row-major (read transposed), or, with b_columns, [8, 16]: its columns one after the other. One warp.
GpuError ProbeMatrixProduct(GpuStreamRef stream, DType dtype, const void* a, const void* b, bool b_columns,
                            float* c);
// y[i] = 2^x[i].
GpuError ProbeExp2(GpuStreamRef stream, const float* x, float* y, int count);
// out [7, 32]: lane numbers as __shfl_sync from 5, _up by 3, _down by 3, _xor by 6 give them; then the same
// three of width 8: _sync from 5, _up by 3, _down by 3.
GpuError ProbeShuffles(GpuStreamRef stream, int* out);
// out [8, 8] = transposed in, of 16-bit elements.
GpuError ProbeTranspose(GpuStreamRef stream, const uint32_t* in, uint32_t* out);
// dst[i] = valid[i] ? src[i] : 0 in pieces of 16 bytes, through shared memory, two groups of copies.
GpuError ProbeAsyncCopy(GpuStreamRef stream, const void* src, const int* valid, void* dst, int pieces);

}  // namespace lombard
