// SwiGLU on a GPU.
#pragma once

#include <cstdint>

#include "base/device/gpu_error.h"
#include "base/dtype.h"

namespace lombard {

// y[r, i] = gate / (1 + exp(-gate)) * up, in fp32. (Shazeer 2020) Device memory; gate, up: rows `in_stride`
// elements apart; y may be gate or up where the types are equal. Any dim and alignment; 16-byte accesses
// where dim and strides are multiples of 8 and pointers of 16 bytes.
struct GpuSwiGluArgs {
  const void* gate = nullptr;  // [rows, dim] of in_dtype
  const void* up = nullptr;
  void* y = nullptr;                                    // [rows, dim] of y_dtype
  DType in_dtype = DType::kF32, y_dtype = DType::kF32;  // equal, or in_dtype is fp32
  int64_t rows = 0, dim = 0, in_stride = 0, y_stride = 0;
};
GpuError GpuSwiGlu(GpuStreamRef stream, const GpuSwiGluArgs& args);

}  // namespace lombard
