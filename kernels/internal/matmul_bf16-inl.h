// Products of few rows with bf16 weights as dot products of bf16 pairs (VDPBF16PS): weights as they lie,
// row-major [n, k], lanes along k, one vector of sums per output. No packing of weights.
//
// The order of an output's sum: old value; then per block of k 16 lanes of pairs, k ascending, and Fold's
// tree over the lanes; then bias. The same for every number of rows up to kFewPairsRows.
#pragma once

#include <immintrin.h>

#include "kernels/internal/kernel_table.h"
#include "kernels/internal/matmul_bf16_many-inl.h"

namespace lombard::internal::isa_avx512_bf16 {
namespace {

inline __m512 DotOf(__m512 sums, __m512i a, __m512i b) {
  return _mm512_dpbf16_ps(sums, (__m512bh)a, (__m512bh)b);
}

// x [k] rounded to bf16, zeros up to a multiple of 32.
void PackPairs(const float* x, int64_t k, uint16_t* packed) {
  int64_t i = 0;
  for (; i + 32 <= k; i += 32) {
    _mm512_storeu_si512(packed + i,
                        (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + i + 16), _mm512_loadu_ps(x + i)));
  }
  if (i == k) return;
  float tail[32] = {};
  __builtin_memcpy(tail, x + i, (k - i) * sizeof(float));
  _mm512_storeu_si512(packed + i,
                      (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(tail + 16), _mm512_loadu_ps(tail)));
}

// Bytes from the weights that are met to those that are fetched meanwhile: `near` into the first-level cache,
// `far` into the second.
struct Ahead {
  int64_t near = 0, far = 0;
};

// sums[m * N + n] += x[m, :] . w[n, :] over `length` elements. kFetch: how many of Ahead are used.
template <int M, int N, int kFetch>
inline __attribute__((always_inline)) void DotTile(const uint16_t* x, int64_t x_stride, const uint16_t* w,
                                                   int64_t w_stride, int64_t length, const Ahead& ahead,
                                                   __m512 (&sums)[M * N]) {
  const auto step = [&](int64_t i, __mmask32 have) __attribute__((always_inline)) {
    __m512i ws[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      const char* at = reinterpret_cast<const char*>(w + n * w_stride + i);
      if (kFetch >= 1) _mm_prefetch(at + ahead.near, _MM_HINT_T0);
      if (kFetch >= 2) _mm_prefetch(at + ahead.far, _MM_HINT_T1);
      ws[n] = have == ~__mmask32{0} ? _mm512_loadu_si512(at) : _mm512_maskz_loadu_epi16(have, at);
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const __m512i xs = _mm512_loadu_si512(x + m * x_stride + i);
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) sums[m * N + n] = DotOf(sums[m * N + n], xs, ws[n]);
    }
  };
  int64_t i = 0;
  for (; i + 32 <= length; i += 32) step(i, ~__mmask32{0});
  if (i < length) step(i, (__mmask32{1} << (length - i)) - 1);
}

// Four vectors -> four sums over each quarter, in each quarter.
inline __m512 FoldInQuarters(__m512 a, __m512 b, __m512 c, __m512 d) {
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)),
               cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  const __m512d low = _mm512_unpacklo_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd)),
                high = _mm512_unpackhi_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
  return _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
}
// Four results of FoldInQuarters -> the sums of 16 vectors.
inline __m512 FoldQuarters(__m512 a, __m512 b, __m512 c, __m512 d) {
  const __m512 ab = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd)),
               cd = _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x88), _mm512_shuffle_f32x4(c, d, 0xdd));
  return _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
}

// out[i] = the sum over the lanes of v[i].
template <int COUNT>
inline void Fold(const __m512* v, float* out) {
  const auto at = [&](int i) { return i < COUNT ? v[i] : _mm512_setzero_ps(); };
#pragma GCC unroll 8
  for (int i = 0; i < COUNT; i += 16) {
    const __m512 a = FoldInQuarters(at(i), at(i + 1), at(i + 2), at(i + 3)),
                 b = FoldInQuarters(at(i + 4), at(i + 5), at(i + 6), at(i + 7)),
                 c = FoldInQuarters(at(i + 8), at(i + 9), at(i + 10), at(i + 11)),
                 d = FoldInQuarters(at(i + 12), at(i + 13), at(i + 14), at(i + 15));
    _mm512_storeu_ps(out + i, FoldQuarters(a, b, c, d));
  }
}

// The sums of a block of k, M rows from m on and N columns from n on, into y. first, last: of the blocks.
template <int M, int N>
inline void AddToY(const PairsBlock& b, const __m512* sums, int64_t m, int64_t n, bool first, bool last) {
  float values[(M * N + 15) / 16 * 16];
  Fold<M * N>(sums, values);
  const bool add = !first || b.accumulate, add_bias = last && b.bias != nullptr;
  for (int i = 0; i < M; ++i) {
    float* y = b.y + (m + i) * b.y_stride + n;
    for (int j = 0; j < N; ++j) {
      float value = values[i * N + j];
      if (add) value = y[j] + value;
      y[j] = add_bias ? value + b.bias[n + j] : value;
    }
  }
}

// M rows from m on, N columns from n on, over the block of k that begins at `k`.
template <int M, int N, int kFetch>
inline void PairsTile(const PairsBlock& b, const uint16_t* x, int64_t x_stride, int64_t k, int64_t length,
                      int64_t m, int64_t n, const Ahead& ahead) {
  __m512 sums[M * N];
#pragma GCC unroll 32
  for (int i = 0; i < M * N; ++i) sums[i] = _mm512_setzero_ps();
  DotTile<M, N, kFetch>(x + m * x_stride, x_stride, b.w + n * b.k + k, b.k, length, ahead, sums);
  AddToY<M, N>(b, sums, m, n, k == 0, k + length == b.k);
}

// Up to N columns from n on.
template <int M, int N, int kFetch>
inline void PairsColumns(const PairsBlock& b, const uint16_t* x, int64_t x_stride, int64_t k, int64_t length,
                         int64_t m, int64_t n, int64_t columns, const Ahead& ahead) {
  if (columns >= N) return PairsTile<M, N, kFetch>(b, x, x_stride, k, length, m, n, ahead);
  for (int64_t j = 0; j < columns; ++j) PairsTile<M, 1, kFetch>(b, x, x_stride, k, length, m, n + j, ahead);
}

// One row: the weights are one stream from memory, as they lie.
void PairsStreamOne(const PairsBlock& b) {
  constexpr Ahead kAhead{.near = 8192};  // 4 and 16 KiB were slower (Zen 5)
  for (int64_t n = b.n_begin; n < b.n_end; ++n) {
    const uint16_t* x = b.x;
    for (int64_t k = 0; k < b.k; k += kPairsBlock) {
      const int64_t length = b.k - k < kPairsBlock ? b.k - k : kPairsBlock;
      PairsTile<1, 1, 1>(b, x, 0, k, length, 0, n, kAhead);
      x += PairsStride(length);
    }
  }
}

// Up to eight rows: the weights come from memory once. A group of columns shares the rows of x of a part of
// k, which stay in the first-level cache while the group's columns pass by N by N; then the next part. What
// is met next is fetched into the first-level cache, the same columns of the next pass into the second.
// Where a block of k has several parts, its sums are kept between them.
template <int M, int N>
void PairsStream(const PairsBlock& b) {
  constexpr int64_t kGroup = kPairsGroup;
  constexpr int64_t kPart = PairsPackBlock(M);
  alignas(64) __m512 kept[kGroup * M];
  for (int64_t group = b.n_begin; group < b.n_end; group += kGroup) {
    const int64_t columns = group + kGroup < b.n_end ? kGroup : b.n_end - group;
    const uint16_t* x = b.x;
    for (int64_t k = 0; k < b.k; k += kPart) {
      const int64_t length = b.k - k < kPart ? b.k - k : kPart, stride = PairsStride(length),
                    end = k + length;
      const bool begins = k % kPairsBlock == 0, ends = end % kPairsBlock == 0 || end == b.k;
      const int64_t pass =
          2 * (end < b.k ? length : columns * b.k - k);  // bytes to the same tile in the next
      const auto tile = [&]<int kColumns>(int64_t column) __attribute__((always_inline)) {
        __m512 sums[M * kColumns], *keep = kept + column * M;
#pragma GCC unroll 32
        for (int i = 0; i < M * kColumns; ++i) sums[i] = begins ? _mm512_setzero_ps() : keep[i];
        const int64_t n = group + column;
        const Ahead ahead{.near = column + N < columns ? 2 * N * b.k : pass - 2 * column * b.k, .far = pass};
        DotTile<M, kColumns, kPart == kPairsBlock ? 1 : 2>(x, stride, b.w + n * b.k + k, b.k, length, ahead,
                                                           sums);
        if (ends) return AddToY<M, kColumns>(b, sums, 0, n, k < kPairsBlock, end == b.k);
#pragma GCC unroll 32
        for (int i = 0; i < M * kColumns; ++i) keep[i] = sums[i];
      };
      int64_t column = 0;
      for (; column + N <= columns; column += N) tile.template operator()<N>(column);
      for (; column < columns; ++column) tile.template operator()<1>(column);
      x += M * stride;
    }
  }
}

inline void PairsRows(const PairsBlock& b, const uint16_t* x, int64_t stride, int64_t k, int64_t length,
                      int64_t m, int take, int64_t n) {
  const int64_t columns = b.n_end - n;
  const auto rows = [&]<int M>() __attribute__((always_inline)) {
    if (m == 0) return PairsColumns<M, 4, 1>(b, x, stride, k, length, m, n, columns, {.near = 8 * b.k});
    PairsColumns<M, 4, 0>(b, x, stride, k, length, m, n, columns, {});
  };
  if (take == 1) rows.template operator()<1>();
  if (take == 2) rows.template operator()<2>();
  if (take == 3) rows.template operator()<3>();
  if (take == 4) rows.template operator()<4>();
  if (take == 5) rows.template operator()<5>();
  if (take == 6) rows.template operator()<6>();
}

// More, still few rows: columns four by four outside, whose weights come from memory while the first rows
// meet them.
void PairsFew(const PairsBlock& b) {
  const uint16_t* x = b.x;
  for (int64_t k = 0; k < b.k; k += kPairsBlock) {
    const int64_t length = b.k - k < kPairsBlock ? b.k - k : kPairsBlock, stride = PairsStride(length);
    for (int64_t n = b.n_begin; n < b.n_end; n += 4) {
      for (int64_t m = 0; m < b.rows;) {
        const int64_t left = b.rows - m;
        const int take = static_cast<int>(left <= 6 ? left : left < 12 ? (left + 1) / 2 : 6);
        PairsRows(b, x, stride, k, length, m, take, n);
        m += take;
      }
    }
    x += b.rows * stride;
  }
}

void MatmulPairs(const PairsBlock& b) {
  switch (b.rows) {
    case 1:
      return PairsStreamOne(b);
    case 2:
      return PairsStream<2, 2>(b);
    case 3:
      return PairsStream<3, 2>(b);
    case 4:
      return PairsStream<4, 2>(b);
    case 5:
      return PairsStream<5, 3>(b);
    case 6:
      return PairsStream<6, 3>(b);
    case 7:
      return PairsStream<7, 3>(b);
    case 8:
      return PairsStream<8, 3>(b);
  }
  b.rows <= kFewPairsRows ? PairsFew(b) : PairsMany(b);
}

}  // namespace
}  // namespace lombard::internal::isa_avx512_bf16
