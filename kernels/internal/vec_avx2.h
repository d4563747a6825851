// Vectors of 8 floats: AVX2, FMA, F16C. The same names as vec_base.h.
#pragma once

#include <immintrin.h>

#include "kernels/internal/kernel_table.h"

namespace lombard::internal::isa_avx2 {

inline constexpr int kLanes = 8;
inline constexpr int kDotRows =
    3;  // register tile of the matrix product: 3 x 4 of the 16 registers accumulate
// The same where weights are met in their own type, which takes registers.
inline constexpr int kFewRows = 4, kFewColumns = 2;
using F = __m256;

// The compiler keeps the value in a register instead of loading it again at each use.
inline void Keep(F& v) { asm("" : "+x"(v)); }
inline F Set1(float v) { return _mm256_set1_ps(v); }
inline F Zero() { return _mm256_setzero_ps(); }
inline F Load(const float* p) { return _mm256_loadu_ps(p); }
inline void Store(float* p, F v) { _mm256_storeu_ps(p, v); }
inline F Add(F a, F b) { return _mm256_add_ps(a, b); }
inline F Sub(F a, F b) { return _mm256_sub_ps(a, b); }
inline F Mul(F a, F b) { return _mm256_mul_ps(a, b); }
inline F Div(F a, F b) { return _mm256_div_ps(a, b); }
inline F MulAdd(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
inline F Max(F a, F b) { return _mm256_max_ps(a, b); }  // b where either is NaN
inline F Min(F a, F b) { return _mm256_min_ps(a, b); }
inline F ZeroWhereLess(F value, F x, F bound) {
  return _mm256_andnot_ps(_mm256_cmp_ps(x, bound, _CMP_LT_OQ), value);
}
inline F ScaleByExponent(F p, F shifted) {
  const __m256i exponent = _mm256_add_epi32(_mm256_castps_si256(shifted), _mm256_set1_epi32(127));
  return _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}

inline F LoadAs(const float* p) { return _mm256_loadu_ps(p); }
inline F LoadAs(const BF16* p) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
inline F LoadAs(const F16* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
// Half of 2 * kLanes elements: the first and second half, but for bf16 the even and odd ones, which cost one
// instruction each.
template <int HALF>
inline F LoadHalf(const float* p) {
  return _mm256_loadu_ps(p + HALF * kLanes);
}
template <int HALF>
inline F LoadHalf(const F16* p) {
  return LoadAs(p + HALF * kLanes);
}
template <int HALF>
inline F LoadHalf(const BF16* p) {
  const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm256_castsi256_ps(HALF == 0
                                 ? _mm256_slli_epi32(both, 16)
                                 : _mm256_and_si256(both, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
}
inline __m256i RoundBF16(F v) {  // in the high half
  const __m256i bits = _mm256_castps_si256(v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  return _mm256_and_si256(_mm256_blendv_epi8(rounded, quiet, nan),
                          _mm256_set1_epi32(static_cast<int>(0xffff0000u)));
}
inline void StoreAs(BF16* p, F v) {
  const __m256i high = _mm256_srli_epi32(RoundBF16(v), 16);
  const __m128i packed = _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), packed);
}
inline void StoreAs(F16* p, F v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
inline void StoreAs(float* p, F v) { Store(p, v); }
inline F RoundAs(const float*, F v) { return v; }
inline F RoundAs(const BF16*, F v) { return _mm256_castsi256_ps(RoundBF16(v)); }
inline F RoundAs(const F16*, F v) { return _mm256_cvtph_ps(_mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT)); }

// ((0+4) + (2+6)) + ((1+5) + (3+7))
inline float Sum(F v) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
inline float MaxOf(F v) {
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  return _mm_cvtss_f32(_mm_max_ss(m, _mm_shuffle_ps(m, m, 1)));
}
// Four floats: what is left of four vectors, each summed by the tree of Sum().
using Quad = __m128;
inline Quad Sum4(F a, F b, F c, F d) {
  const __m256 ab = _mm256_add_ps(_mm256_blend_ps(a, b, 0xf0), _mm256_permute2f128_ps(a, b, 0x21));
  const __m256 cd = _mm256_add_ps(_mm256_blend_ps(c, d, 0xf0), _mm256_permute2f128_ps(c, d, 0x21));
  const __m256 two = _mm256_add_ps(_mm256_blend_ps(ab, cd, 0xcc), _mm256_shuffle_ps(ab, cd, 0x4e));
  const __m256 one = _mm256_add_ps(two, _mm256_permute_ps(two, 0xb1));
  return _mm_blend_ps(_mm256_castps256_ps128(one), _mm256_extractf128_ps(one, 1), 0xa);
}
inline void Transpose(Quad& a, Quad& b, Quad& c, Quad& d) { _MM_TRANSPOSE4_PS(a, b, c, d); }
inline Quad LoadQuad(const float* p) { return _mm_loadu_ps(p); }
inline void StoreQuad(float* p, Quad v) { _mm_storeu_ps(p, v); }
inline Quad AddQuad(Quad a, Quad b) { return _mm_add_ps(a, b); }
inline void PrefetchSecondLevel(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1); }
inline void Prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

}  // namespace lombard::internal::isa_avx2
