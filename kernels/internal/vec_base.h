// Vectors of 4 floats in the compiler's portable notation: SSE2 on x86-64, NEON on Arm. No fused multiply-add
// is assumed.
#pragma once

#include <cstdint>

#include "kernels/internal/kernel_table.h"

namespace lombard::internal::isa_base {

inline constexpr int kLanes = 4;
inline constexpr int kDotRows = 3;  // register tile of the matrix product: 3 x 4 accumulators
// The same where weights are met in their own type, which takes registers.
inline constexpr int kFewRows = 3, kFewColumns = 4;
typedef float F __attribute__((vector_size(16)));
typedef int32_t I __attribute__((vector_size(16)));
typedef uint32_t U __attribute__((vector_size(16)));

// The compiler keeps the value in a register instead of loading it again at each use.
#if defined(__x86_64__)
inline void Keep(F& v) { asm("" : "+x"(v)); }
#else
inline void Keep(F&) {}
#endif
inline F Set1(float v) { return F{v, v, v, v}; }
inline F Zero() { return Set1(0); }
inline F Load(const void* p) {
  F v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
inline void Store(float* p, F v) { __builtin_memcpy(p, &v, sizeof v); }
inline F Add(F a, F b) { return a + b; }
inline F Sub(F a, F b) { return a - b; }
inline F Mul(F a, F b) { return a * b; }
inline F Div(F a, F b) { return a / b; }
inline F MulAdd(F a, F b, F c) { return a * b + c; }
inline F Max(F a, F b) { return a > b ? a : b; }  // b where either is NaN
inline F Min(F a, F b) { return a < b ? a : b; }
inline F ZeroWhereLess(F value, F x, F bound) { return x < bound ? Zero() : value; }
inline F ScaleByExponent(F p, F shifted) { return p * (F)(((U)shifted + 127u) << 23); }

inline U LoadU16(const void* p) {
  uint16_t v[4];
  __builtin_memcpy(v, p, sizeof v);
  return U{v[0], v[1], v[2], v[3]};
}
inline void StoreU16(void* p, U v) {
  const uint16_t out[4] = {static_cast<uint16_t>(v[0]), static_cast<uint16_t>(v[1]),
                           static_cast<uint16_t>(v[2]), static_cast<uint16_t>(v[3])};
  __builtin_memcpy(p, out, sizeof out);
}
inline F LoadAs(const float* p) { return Load(p); }
inline F LoadAs(const BF16* p) { return (F)(LoadU16(p) << 16); }
inline F LoadAs(const F16* p) {
  const U bits = LoadU16(p), magnitude = bits & 0x7fffu;
  // The multiplication moves the exponent's bias from 15 to 127 and makes subnormals right; infinity and NaN
  // are set by hand.
  const U finite = (U)((F)(magnitude << 13) * 0x1p112f);
  const U special = 0x7f800000u | (magnitude << 13);
  return (F)((magnitude >= 0x7c00u ? special : finite) | ((bits & 0x8000u) << 16));
}
// Half of 2 * kLanes elements: the first and second half, but for bf16 the even and odd ones, which cost one
// instruction each.
template <int HALF>
inline F LoadHalf(const float* p) {
  return Load(p + HALF * kLanes);
}
template <int HALF>
inline F LoadHalf(const F16* p) {
  return LoadAs(p + HALF * kLanes);
}
template <int HALF>
inline F LoadHalf(const BF16* p) {
  const U both = (U)Load(p);
  return (F)(HALF == 0 ? both << 16 : both & 0xffff0000u);
}
inline U RoundBF16(F v) {  // in the high half
  const U bits = (U)v;
  const U rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  return (v != v ? (bits | 0x400000u) : rounded) & 0xffff0000u;
}
inline void StoreAs(BF16* p, F v) { StoreU16(p, RoundBF16(v) >> 16); }
inline void StoreAs(F16* p, F v) {
  const U bits = (U)v, sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
  const U subnormal = (U)((F)magnitude + 0.5f) - 0x3f000000u;  // fp32 addition rounds to multiples of 2^-24
  const U normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  U half = magnitude < 0x38800000u ? subnormal : normal;
  half = magnitude >= 0x477ff000u ? (U{} + 0x7c00u) : half;
  half = magnitude > 0x7f800000u ? (U{} + 0x7e00u) : half;
  StoreU16(p, sign | half);
}
inline void StoreAs(float* p, F v) { Store(p, v); }
inline F RoundAs(const float*, F v) { return v; }
inline F RoundAs(const BF16*, F v) { return (F)RoundBF16(v); }
inline F RoundAs(const F16*, F v) {
  F16 half[4];
  StoreAs(half, v);
  return LoadAs(half);
}

inline float Sum(F v) { return (v[0] + v[1]) + (v[2] + v[3]); }
inline float MaxOf(F v) {
  const float a = v[0] > v[1] ? v[0] : v[1], b = v[2] > v[3] ? v[2] : v[3];
  return a > b ? a : b;
}
// Four floats: what is left of four vectors, each summed by the tree of Sum().
using Quad = F;
inline Quad Sum4(F a, F b, F c, F d) { return Quad{Sum(a), Sum(b), Sum(c), Sum(d)}; }
inline void Transpose(Quad& a, Quad& b, Quad& c, Quad& d) {
  const Quad w = a, x = b, y = c, z = d;
  a = Quad{w[0], x[0], y[0], z[0]}, b = Quad{w[1], x[1], y[1], z[1]};
  c = Quad{w[2], x[2], y[2], z[2]}, d = Quad{w[3], x[3], y[3], z[3]};
}
inline Quad LoadQuad(const float* p) { return Load(p); }
inline void StoreQuad(float* p, Quad v) { Store(p, v); }
inline Quad AddQuad(Quad a, Quad b) { return a + b; }
inline void PrefetchSecondLevel(const void* p) { __builtin_prefetch(p, 0, 2); }
inline void Prefetch(const void* p) { __builtin_prefetch(p); }

}  // namespace lombard::internal::isa_base
