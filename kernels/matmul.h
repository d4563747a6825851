// Dense layers: y = x W^T (+ bias) (+ y).
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "kernels/cpu_context.h"

namespace lombard {

// M rows of activations, weights as stored on disk: row-major [N, K], used in place (any alignment of 2 bytes
// or more). y[m, n] = sum_k x[m, k] * w[n, k] + bias[n] + (accumulate ? y[m, n] : 0); sums in fp32. With bf16
// weights, x is rounded to bf16 (nearest even) once, on every path and for every M; with fp16 and fp32 it is
// not. A row's result does not depend on the other rows, nor on how many there are, but that products of many
// rows (more than 24) with bf16 weights may take their sums in another order than those of few.
struct MatmulArgs {
  const float* x = nullptr;  // [M, K], rows x_stride elements apart
  const void* w = nullptr;   // [N, K], contiguous, w_dtype
  DType w_dtype = DType::kF32;
  const float* bias = nullptr;  // [N] or null
  float* y = nullptr;           // [M, N], rows y_stride elements apart; must not overlap x
  int64_t rows = 0, n = 0, k = 0;
  int64_t x_stride = 0, y_stride = 0;
  bool accumulate = false;
};

void Matmul(const CpuContext& context, const MatmulArgs& args);

}  // namespace lombard
