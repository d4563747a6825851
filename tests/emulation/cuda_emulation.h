// CUDA's language for a plain C++ compiler, as far as our kernels use it (docs/gpu.md):
// kernels/cuda/dialect.cuh includes this where nvcc is not at work. Names of CUDA stand in the global
// namespace, as there.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>

#include "base/device/gpu_error.h"
#include "base/dtype.h"
#include "tests/emulation/block_runner.h"
#include "tests/emulation/cuda_types.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define LOMBARD_DEVICE inline
#define LOMBARD_HOST_DEVICE inline
#define LOMBARD_SHARED(Type, name, count)                                \
  Type* const name = ::lombard::emulation::SharedArray<Type, count>([] { \
    static const char tag = 0;                                           \
    return static_cast<const void*>(&tag);                               \
  }())
#define LOMBARD_DYNAMIC_SHARED(Type, name) \
  Type* const name = static_cast<Type*>(::lombard::emulation::BlockRunner::Current()->DynamicShared())

#define threadIdx (::lombard::emulation::Self().thread_index)
#define blockIdx (::lombard::emulation::Self().block_index)
#define blockDim (::lombard::emulation::Self().block_dim)
#define gridDim (::lombard::emulation::Self().grid_dim)
constexpr int warpSize = 32;

namespace lombard::emulation {

inline Thread& Self() { return BlockRunner::Current()->thread(); }

// Puts a kernel into a stream; the answer is cudaError_t's number.
int Enqueue(GpuStreamRef stream, const char* name, dim3 grid, dim3 block, uint32_t shared_bytes,
            std::function<void()> body);

template <class T, int kCount>
T* SharedArray(const void* tag) {
  return static_cast<T*>(BlockRunner::Current()->SharedArray(tag, sizeof(T) * kCount));
}

inline void CheckAligned(const void* p, size_t bytes, Place place = Place::current()) {
  if (reinterpret_cast<uintptr_t>(p) % bytes != 0) BlockRunner::Current()->Fault("misaligned address", place);
}

// Bits of values that nobody may use.
template <class T>
T Rubbish() {
  T value;
  std::memset(&value, 0xff, sizeof value);
  return value;
}

// Element types.
struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};
inline float ToFloat(float x) { return x; }
inline float ToFloat(Half x) { return FloatFromF16(x.bits); }
inline float ToFloat(BFloat16 x) { return FloatFromBF16(x.bits); }
template <class T>
T FromFloat(float x) {
  if constexpr (std::is_same_v<T, Half>) {
    return {F16FromFloat(x)};
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    return {BF16FromFloat(x)};
  } else {
    return x;
  }
}

// kernels/cuda/ptx.cuh.
void CpAsync(void* shared, const void* global, uint32_t bytes, bool valid, Place place = Place::current());
void CpAsyncCommit();
void CpAsyncWait(uint32_t pending);
void LdMatrixX4(uint32_t (&r)[4], const void* row, bool transposed, Place place = Place::current());
uint32_t TransposeMatrix(uint32_t r, Place place = Place::current());
void MmaBits(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], DType dtype, Place place);
template <class T>
void Mma16x8x16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                Place place = Place::current()) {
  static_assert(std::is_same_v<T, Half> || std::is_same_v<T, BFloat16>);
  MmaBits(c, a, b, std::is_same_v<T, Half> ? DType::kF16 : DType::kBF16, place);
}
float Exp2(float x);

// A lane of a shuffle: what it gives, whom it reads, what it gets.
template <class T>
struct Shuffle {
  T value;
  int source;
  T result;
};
template <class T>
T ShuffleFrom(const char* operation, uint32_t mask, T value, int source, Place place) {
  static_assert(std::is_trivially_copyable_v<T> && (sizeof(T) == 4 || sizeof(T) == 8));
  Shuffle<T> self{value, source, Rubbish<T>()};
  BlockRunner::Current()->Warp(
      operation, mask, &self,
      [](void* const operands[], uint32_t lanes) {
        for (int lane = 0; lane < 32; ++lane) {
          if ((lanes >> lane & 1) == 0) continue;
          Shuffle<T>& reader = *static_cast<Shuffle<T>*>(operands[lane]);
          if (lanes >> reader.source & 1)  // else the value is not defined
            reader.result = static_cast<Shuffle<T>*>(operands[reader.source])->value;
        }
      },
      place);
  return self.result;
}

// A lane of a vote or reduction: its operand, then everybody's result.
template <class T, class Fold>
T ReduceLanes(const char* operation, uint32_t mask, T value, Fold, Place place) {
  BlockRunner::Current()->Warp(
      operation, mask, &value,
      [](void* const operands[], uint32_t lanes) {
        T total{};
        bool first = true;
        for (int lane = 0; lane < 32; ++lane) {
          if ((lanes >> lane & 1) == 0) continue;
          const T operand = *static_cast<T*>(operands[lane]);
          total = first ? operand : Fold{}(total, operand);
          first = false;
        }
        for (int lane = 0; lane < 32; ++lane)
          if (lanes >> lane & 1) *static_cast<T*>(operands[lane]) = total;
      },
      place);
  return value;
}
struct FoldAdd {
  template <class T>
  T operator()(T a, T b) const {
    return a + b;
  }
};
struct FoldMin {
  template <class T>
  T operator()(T a, T b) const {
    return b < a ? b : a;
  }
};
struct FoldMax {
  template <class T>
  T operator()(T a, T b) const {
    return a < b ? b : a;
  }
};
struct FoldAnd {
  unsigned operator()(unsigned a, unsigned b) const { return a & b; }
};
struct FoldOr {
  unsigned operator()(unsigned a, unsigned b) const { return a | b; }
};

}  // namespace lombard::emulation

// Barriers.
inline void __syncthreads(lombard::emulation::Place place = lombard::emulation::Place::current()) {
  lombard::emulation::BlockRunner::Current()->Barrier("__syncthreads", place);
}
inline int __syncthreads_or(int predicate,
                            lombard::emulation::Place place = lombard::emulation::Place::current()) {
  lombard::emulation::BlockRunner::Current()->Barrier("__syncthreads_or", place, &predicate,
                                                      [](void* const operands[], uint32_t count) {
                                                        int any = 0;
                                                        for (uint32_t i = 0; i < count; ++i)
                                                          if (operands[i] != nullptr)
                                                            any |= *static_cast<int*>(operands[i]) != 0;
                                                        for (uint32_t i = 0; i < count; ++i)
                                                          if (operands[i] != nullptr)
                                                            *static_cast<int*>(operands[i]) = any;
                                                      });
  return predicate;
}
inline void __syncwarp(unsigned mask = 0xffffffffu,
                       lombard::emulation::Place place = lombard::emulation::Place::current()) {
  lombard::emulation::BlockRunner::Current()->Warp(
      "__syncwarp", mask, nullptr, [](void* const[], uint32_t) {}, place);
}
inline void __threadfence() {}
inline void __threadfence_block() {}

// Warp instructions.
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32,
              lombard::emulation::Place place = lombard::emulation::Place::current()) {
  const int lane = lombard::emulation::Self().lane;
  return lombard::emulation::ShuffleFrom("__shfl_sync", mask, value,
                                         (lane & ~(width - 1)) | (source & (width - 1)), place);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                 lombard::emulation::Place place = lombard::emulation::Place::current()) {
  const int lane = lombard::emulation::Self().lane, step = static_cast<int>(delta);
  return lombard::emulation::ShuffleFrom("__shfl_up_sync", mask, value,
                                         (lane & (width - 1)) < step ? lane : lane - step, place);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   lombard::emulation::Place place = lombard::emulation::Place::current()) {
  const int lane = lombard::emulation::Self().lane, step = static_cast<int>(delta);
  return lombard::emulation::ShuffleFrom("__shfl_down_sync", mask, value,
                                         (lane & (width - 1)) + step >= width ? lane : lane + step, place);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32,
                  lombard::emulation::Place place = lombard::emulation::Place::current()) {
  const int lane = lombard::emulation::Self().lane, other = lane ^ lane_mask;
  const bool later = other > (lane | (width - 1));
  return lombard::emulation::ShuffleFrom("__shfl_xor_sync", mask, value, later ? lane : other, place);
}
inline unsigned __ballot_sync(unsigned mask, int predicate,
                              lombard::emulation::Place place = lombard::emulation::Place::current()) {
  const unsigned mine = predicate != 0 ? 1u << lombard::emulation::Self().lane : 0u;
  return lombard::emulation::ReduceLanes("__ballot_sync", mask, mine, lombard::emulation::FoldOr{}, place);
}
inline int __any_sync(unsigned mask, int predicate,
                      lombard::emulation::Place place = lombard::emulation::Place::current()) {
  const unsigned mine = predicate != 0;
  return static_cast<int>(
      lombard::emulation::ReduceLanes("__any_sync", mask, mine, lombard::emulation::FoldOr{}, place));
}
inline int __all_sync(unsigned mask, int predicate,
                      lombard::emulation::Place place = lombard::emulation::Place::current()) {
  const unsigned mine = predicate != 0;
  return static_cast<int>(
      lombard::emulation::ReduceLanes("__all_sync", mask, mine, lombard::emulation::FoldAnd{}, place));
}
#define LOMBARD_EMULATED_REDUCE(name, Type, Fold)                                                  \
  inline Type name(unsigned mask, Type value,                                                      \
                   lombard::emulation::Place place = lombard::emulation::Place::current()) {       \
    return lombard::emulation::ReduceLanes(#name, mask, value, lombard::emulation::Fold{}, place); \
  }
LOMBARD_EMULATED_REDUCE(__reduce_add_sync, unsigned, FoldAdd)
LOMBARD_EMULATED_REDUCE(__reduce_add_sync, int, FoldAdd)
LOMBARD_EMULATED_REDUCE(__reduce_min_sync, unsigned, FoldMin)
LOMBARD_EMULATED_REDUCE(__reduce_min_sync, int, FoldMin)
LOMBARD_EMULATED_REDUCE(__reduce_max_sync, unsigned, FoldMax)
LOMBARD_EMULATED_REDUCE(__reduce_max_sync, int, FoldMax)
LOMBARD_EMULATED_REDUCE(__reduce_and_sync, unsigned, FoldAnd)
LOMBARD_EMULATED_REDUCE(__reduce_or_sync, unsigned, FoldOr)
#undef LOMBARD_EMULATED_REDUCE

// Atomics: a thread gives way at barriers and warp instructions alone, so plain code is atomic.
template <class T, class F>
T LombardAtomic(T* p, F next) {
  const T old = *p;
  *p = next(old);
  return old;
}
#define LOMBARD_EMULATED_ATOMIC(name, next)                         \
  template <class T>                                                \
  T name(T* p, std::type_identity_t<T> value) {                     \
    return LombardAtomic(p, [&](const T& old) { return T(next); }); \
  }
LOMBARD_EMULATED_ATOMIC(atomicAdd, old + value)
LOMBARD_EMULATED_ATOMIC(atomicSub, old - value)
LOMBARD_EMULATED_ATOMIC(atomicMin, value < old ? value : old)
LOMBARD_EMULATED_ATOMIC(atomicMax, old < value ? value : old)
LOMBARD_EMULATED_ATOMIC(atomicExch, (static_cast<void>(old), value))
LOMBARD_EMULATED_ATOMIC(atomicOr, old | value)
#undef LOMBARD_EMULATED_ATOMIC
template <class T>
T atomicCAS(T* p, std::type_identity_t<T> compare, std::type_identity_t<T> value) {
  return LombardAtomic(p, [&](const T& old) { return old == compare ? value : old; });
}
template <class T>
T __ldg(const T* p) {
  return *p;
}

// Arithmetic.
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __ffs(int x) { return x == 0 ? 0 : std::countr_zero(static_cast<unsigned>(x)) + 1; }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32);
}
template <class T>
constexpr T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
constexpr T max(T a, T b) {
  return a < b ? b : a;
}
