// From DType, known at run time, to the element types that kernels are compiled for; and when a kernel may
// use 16-byte accesses. Host code.
#pragma once

#include <cstdint>
#include <string>

#include "base/check.h"
#include "base/device/gpu_error.h"
#include "base/dtype.h"
#include "kernels/cuda/element.cuh"

namespace lombard::internal {

template <class T>
struct Type {
  using type = T;
};

// f(Type<T>()) for the one that is meant.
template <class F>
GpuError ForType(DType dtype, F f) {
  switch (dtype) {
    case DType::kF32:
      return f(Type<float>());
    case DType::kF16:
      return f(Type<Half>());
    case DType::kBF16:
      return f(Type<BFloat16>());
  }
  CHECK(false) << "dtype " << static_cast<int>(dtype);
  return {};
}

// f(Type<In>(), Type<Out>()) for the pairs that kernels are compiled for: equal ones, and fp32 to the others.
// CHECKs the rest. (Each pair costs nvcc time, three times over.)
template <class F>
GpuError ForTypes(DType in, DType out, F f) {
  CHECK(in == out || in == DType::kF32)
      << std::string(DTypeName(in)) << " to " << std::string(DTypeName(out));
  if (in == out) return ForType(in, [&](auto type) { return f(type, type); });
  if (out == DType::kF16) return f(Type<float>(), Type<Half>());
  return f(Type<float>(), Type<BFloat16>());
}

// Whether rows at `pointer`, `stride` elements apart, may be read in packs of 8 elements: aligned to 16
// bytes. A null pointer stands in nobody's way.
inline bool PacksOf8(const void* pointer, int64_t stride) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0 && stride % 8 == 0;
}

}  // namespace lombard::internal
