// Element types of kernels and their 16-byte packs: the same names on a GPU and under emulation.
#pragma once

#include <type_traits>

#include "kernels/cuda/dialect.cuh"

namespace lombard {

#ifdef __CUDACC__
using Half = __half;
using BFloat16 = __nv_bfloat16;
LOMBARD_DEVICE float ToFloat(float x) { return x; }
LOMBARD_DEVICE float ToFloat(Half x) { return __half2float(x); }
LOMBARD_DEVICE float ToFloat(BFloat16 x) { return __bfloat162float(x); }
// Rounded to nearest even.
template <class T>
LOMBARD_DEVICE T FromFloat(float x) {
  if constexpr (std::is_same_v<T, Half>) {
    return __float2half_rn(x);
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    return __float2bfloat16_rn(x);
  } else {
    return x;
  }
}
#else
using Half = emulation::Half;
using BFloat16 = emulation::BFloat16;
using emulation::FromFloat;
using emulation::ToFloat;
#endif

// 16 bytes of elements: what one load or store of a thread moves.
template <class T>
struct alignas(16) Pack {
  static constexpr int kCount = 16 / sizeof(T);
  T v[kCount];
};

// REQUIRES: p is 16-byte aligned (a fault on the device, reported under emulation).
template <class T>
LOMBARD_DEVICE Pack<T> LoadPack(const T* p) {
#ifndef __CUDACC__
  emulation::CheckAligned(p, 16);
#endif
  const uint4 bits = *reinterpret_cast<const uint4*>(p);
  Pack<T> pack;
  __builtin_memcpy(&pack, &bits, 16);
  return pack;
}
template <class T>
LOMBARD_DEVICE void StorePack(T* p, const Pack<T>& pack) {
#ifndef __CUDACC__
  emulation::CheckAligned(p, 16);
#endif
  uint4 bits;
  __builtin_memcpy(&bits, &pack, 16);
  *reinterpret_cast<uint4*>(p) = bits;
}

// Two elements of a 16-bit type, rounded, in one register; `low` in the lower half.
template <class T>
LOMBARD_DEVICE uint32_t PackPair(float low, float high) {
  static_assert(sizeof(T) == 2);
#ifdef __CUDACC__
  uint32_t bits;
  if constexpr (std::is_same_v<T, Half>) {
    const __half2 pair = __floats2half2_rn(low, high);
    __builtin_memcpy(&bits, &pair, 4);
  } else {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    __builtin_memcpy(&bits, &pair, 4);
  }
  return bits;
#else
  return FromFloat<T>(low).bits | uint32_t{FromFloat<T>(high).bits} << 16;
#endif
}

// kCount elements as fp32: one, or a multiple of a pack from a 16-byte aligned address.
template <int kCount, class T>
LOMBARD_DEVICE void LoadFloats(const T* p, float (&x)[kCount]) {
  if constexpr (kCount == 1) {
    x[0] = ToFloat(*p);
  } else {
    constexpr int kPack = Pack<T>::kCount;
    static_assert(kCount % kPack == 0);
#pragma unroll
    for (int first = 0; first < kCount; first += kPack) {
      const Pack<T> pack = LoadPack(p + first);
#pragma unroll
      for (int i = 0; i < kPack; ++i) x[first + i] = ToFloat(pack.v[i]);
    }
  }
}
template <int kCount, class T>
LOMBARD_DEVICE void StoreFloats(T* p, const float (&x)[kCount]) {
  if constexpr (kCount == 1) {
    *p = FromFloat<T>(x[0]);
  } else {
    constexpr int kPack = Pack<T>::kCount;
    static_assert(kCount % kPack == 0);
#pragma unroll
    for (int first = 0; first < kCount; first += kPack) {
      Pack<T> pack;
#pragma unroll
      for (int i = 0; i < kPack; ++i) pack.v[i] = FromFloat<T>(x[first + i]);
      StorePack(p + first, pack);
    }
  }
}

}  // namespace lombard
