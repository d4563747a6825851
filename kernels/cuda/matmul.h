// Dense layers on a GPU by our own kernels: y = x W^T (+ bias) (+ y). The formula of kernels/matmul.h.
//
// Few rows, as in decoding, are bound by reading W: a warp reads a row of W once for all of them. More rows
// are for cuBLASLt (kernels/cuda/blas.h); what runs here then is a plain tiled product, for hosts without it
// and for tests.
#pragma once

#include <cstdint>

#include "base/device/gpu_error.h"
#include "base/dtype.h"

namespace lombard {

// y[m, n] = sum_k x[m, k] * w[n, k] + bias[n] + (accumulate ? y[m, n] : 0); sums in fp32. x and w have one
// type: whoever wrote x rounded it to the weights' type, once. Everything is device memory, any alignment of
// an element; 16-byte accesses where k and x_stride are whole packs and x and w are aligned to 16 bytes.
struct GpuMatmulArgs {
  const void* x = nullptr;  // [rows, k] of dtype, rows x_stride elements apart
  const void* w = nullptr;  // [n, k] of dtype, contiguous
  DType dtype = DType::kF32;
  const float* bias = nullptr;  // [n] or null
  float* y = nullptr;           // [rows, n], rows y_stride elements apart; must not overlap x
  int64_t rows = 0, n = 0, k = 0;
  int64_t x_stride = 0, y_stride = 0;
  bool accumulate = false;
};

// Up to this many rows are read as few. A guess, until measured against cuBLASLt.
constexpr int64_t kGpuFewRowsMax = 8;

GpuError GpuMatmul(GpuStreamRef stream, const GpuMatmulArgs& args);

}  // namespace lombard
