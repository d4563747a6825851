// Rows of the embedding table on a GPU.
#pragma once

#include <cstdint>

#include "base/device/gpu_error.h"
#include "base/dtype.h"

namespace lombard {

// y[r] = table[ids[r]]. All device memory, rows contiguous. REQUIRES: ids within the vocabulary (not checked:
// whoever sends them has), dim * rows within memory. 16-byte accesses where dim is a multiple of 8 and
// pointers are of 16 bytes.
struct GpuEmbedArgs {
  const void* table = nullptr;                             // [vocab, dim] of table_dtype
  const int32_t* ids = nullptr;                            // [rows]
  void* y = nullptr;                                       // [rows, dim] of y_dtype
  DType table_dtype = DType::kF32, y_dtype = DType::kF32;  // equal, or y_dtype is fp32
  int64_t rows = 0, dim = 0;
};
GpuError GpuEmbed(GpuStreamRef stream, const GpuEmbedArgs& args);

}  // namespace lombard
