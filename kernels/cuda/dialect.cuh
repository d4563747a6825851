// The language of our kernels: CUDA C++ under nvcc; plain C++ under any other compiler, where
// tests/emulation supplies CUDA's names. Kernels include this and nothing of CUDA's own, and keep to what
// docs/gpu.md lists.
#pragma once

#include <cstdint>

#ifdef __CUDACC__

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define LOMBARD_DEVICE __device__ __forceinline__
#define LOMBARD_HOST_DEVICE __host__ __device__ __forceinline__

// Shared memory of a block, and the only way to it. Both are 16-byte aligned and hold rubbish at the start.
//   LOMBARD_SHARED(float, sums, 32);            // float* sums, 32 of them, known at compile time
//   LOMBARD_DYNAMIC_SHARED(unsigned char, tile);  // T* tile: what the launch asked for; once in a kernel
#define LOMBARD_SHARED(Type, name, count)              \
  __shared__ __align__(16) Type name##_storage[count]; \
  Type* const name = name##_storage
#define LOMBARD_DYNAMIC_SHARED(Type, name)                                \
  extern __shared__ __align__(16) unsigned char lombard_dynamic_shared[]; \
  Type* const name = reinterpret_cast<Type*>(lombard_dynamic_shared)

#else

// On the include path of emulated libraries alone.
#include "cuda_emulation.h"

#endif
