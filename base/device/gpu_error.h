// What a call of the CUDA runtime answered, and how kernels name a stream. Plain structs, because CUDA
// sources include them: nvcc takes seconds for a header of Abseil. Everybody else turns a GpuError into a
// Status (base/device/gpu_status.h) at once.
#pragma once

#include <cstdint>

namespace lombard {

struct [[nodiscard]] GpuError {
  int code = 0;           // cudaError_t; 0: none. Negative: of the emulation
  const char* call = "";  // the runtime's function, or the kernel's name; lives for ever
  // Of a launch.
  uint32_t grid[3] = {0, 0, 0}, block[3] = {0, 0, 0}, shared_bytes = 0;
  bool ok() const { return code == 0; }
};

// A stream as kernels see it; the GpuStream that it is of must outlive the work.
struct GpuStreamRef {
  int device = 0;
  void* handle = nullptr;  // cudaStream_t
};

}  // namespace lombard
