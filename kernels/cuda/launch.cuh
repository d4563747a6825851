// The one way to start a kernel.
//
//   return LOMBARD_LAUNCH((RmsNormKernel<float, BFloat16>), stream, {.grid = rows, .block = 256}, params);
//
// Arguments are copied; parameters are plain structs and pointers. The answer is of the launch; what goes
// wrong in the kernel shows at a later call of the stream. A grid with a 0 in it is not launched: OK.
#pragma once

#include <type_traits>

#include "base/device/gpu_error.h"
#include "kernels/cuda/dialect.cuh"

namespace lombard {

struct LaunchShape {
  dim3 grid = 1, block = 1;
  uint32_t shared_bytes = 0;  // dynamic; more than 48 KiB is asked for
};

#define LOMBARD_LAUNCH(kernel, stream, ...) ::lombard::internal::Launch(#kernel, kernel, stream, __VA_ARGS__)

namespace internal {

inline GpuError LaunchAnswer(int code, const char* name, const LaunchShape& shape) {
  return {code,
          name,
          {shape.grid.x, shape.grid.y, shape.grid.z},
          {shape.block.x, shape.block.y, shape.block.z},
          shape.shared_bytes};
}

template <class... P>
GpuError Launch(const char* name, void (*kernel)(P...), GpuStreamRef stream, const LaunchShape& shape,
                std::type_identity_t<P>... args) {
  if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return {};
#ifdef __CUDACC__
  const void* const function = reinterpret_cast<const void*>(kernel);
  cudaError_t code = cudaSetDevice(stream.device);
  if (code == cudaSuccess && shape.shared_bytes > 48 * 1024) {
    code = cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                static_cast<int>(shape.shared_bytes));
  }
  if (code == cudaSuccess) {
    void* pointers[] = {static_cast<void*>(&args)...};
    code = cudaLaunchKernel(function, shape.grid, shape.block, pointers, shape.shared_bytes,
                            static_cast<cudaStream_t>(stream.handle));
  }
  if (code != cudaSuccess) static_cast<void>(cudaGetLastError());
  return LaunchAnswer(static_cast<int>(code), name, shape);
#else
  const int code =
      emulation::Enqueue(stream, name, shape.grid, shape.block, shape.shared_bytes, [=] { kernel(args...); });
  return LaunchAnswer(code, name, shape);
#endif
}

}  // namespace internal
}  // namespace lombard
