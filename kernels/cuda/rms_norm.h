// RMSNorm on a GPU, with the addition to the residual stream that comes before it.
#pragma once

#include <cstdint>

#include "base/device/gpu_error.h"
#include "base/dtype.h"

namespace lombard {

// With v = x, or with a residual: v = residual + x, which also becomes the new residual (fp32):
//   y[r, i] = v[r, i] / sqrt(mean_i v[r, i]^2 + eps) * weight[i]       (Zhang, Sennrich 2019)
// Sums in fp32. Everything is device memory; rows are `*_stride` elements apart; y may be x where the types
// are equal. Any dim and alignment; 16-byte accesses where dim and strides are multiples of 8 and pointers of
// 16 bytes.
struct GpuRmsNormArgs {
  const void* x = nullptr;                             // [rows, dim] of x_dtype
  float* residual = nullptr;                           // [rows, dim] or null
  const float* weight = nullptr;                       // [dim]
  void* y = nullptr;                                   // [rows, dim] of y_dtype
  DType x_dtype = DType::kF32, y_dtype = DType::kF32;  // equal, or x_dtype is fp32
  int64_t rows = 0, dim = 0, x_stride = 0, residual_stride = 0, y_stride = 0;
  float eps = 0;
};
GpuError GpuRmsNorm(GpuStreamRef stream, const GpuRmsNormArgs& args);

}  // namespace lombard
