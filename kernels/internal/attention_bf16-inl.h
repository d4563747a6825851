// Partial attention over bf16 KV as blocked products of bf16 pairs (VDPBF16PS), whether one row or hundreds.
//
// Loop order: tiles of 64 keys outside; of a tile first the keys of all heads, in the order of memory, then
// the values; query rows inside, six at a time. With few rows keys and values are met as they lie: a key
// meets a row's q, sixteen pairs at a time, and sums across lanes follow; what bounds that is reading. With
// more rows they are packed once, so that a broadcast pair of the other operand meets 16 sums at a time:
//   keys    [head_dim / 2][64 keys][2]   scores of 16 keys from one pair of q
//   values  [64 / 2 keys][dp][2 keys]    16 elements of acc from the weights of two keys
// What a row may not see gets weight 0; what no row sees is never read.
//
// Weights are 2^(u - M) with u = score / ln 2 and M the running maximum of u rounded up to an integer. Moving
// M multiplies by a power of two, which is exact, also of weights that are already rounded to bf16. So a
// weight's mantissa depends on its key alone, not on where a span is cut. `sum` adds the rounded weights,
// that they stay weights of a mean.
#pragma once

#include <immintrin.h>

#include "kernels/internal/kernel_table.h"

namespace lombard::internal::isa_avx512_bf16 {
namespace {

constexpr int kAttendRows = kFewAttendRows;  // register tile: 6 rows x 4 vectors of sums
constexpr int kKeyVectors = kTileTokens / 16;
constexpr int kTilePairs = kTileTokens / 2;
constexpr int kTileGroups = kTileTokens / 16;
constexpr int kHalvesAhead = 2;  // of a head; on Zen 5 better than 1, 3 and 4

inline __m512 DotPairs(__m512 sums, __m512i a, __m512i b) {
  return _mm512_dpbf16_ps(sums, (__m512bh)a, (__m512bh)b);
}
inline __m512i Broadcast(const uint32_t* pair) { return _mm512_set1_epi32(static_cast<int>(*pair)); }
inline __m512i LoadPairs(const void* p) { return _mm512_loadu_si512(p); }
inline __attribute__((always_inline)) void Fetch(const void* p) {
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_NTA);
}

inline uint64_t BitsOfRange(int begin, int end) {  // [begin, end) of 64
  if (begin >= end) return 0;
  return (~uint64_t{0} >> (64 - (end - begin))) << begin;
}

inline uint64_t SeenByRow(const AttendPart& a, int row, int tile) {
  const int begin = a.begin[row] - tile, end = (a.end[row] < a.part_end ? a.end[row] : a.part_end) - tile;
  return BitsOfRange(begin < 0 ? 0 : begin, end < kTileTokens ? end : kTileTokens);
}

// Which keys of a tile some row sees (bit t: key tile + t), and where they lie, sixteen by sixteen: null
// where they are not whole rows of 32 elements one behind the other, all of them seen.
struct TileKeys {
  uint64_t seen = 0;
  const uint16_t* k[kTileGroups];
  const uint16_t* v[kTileGroups];
};

inline void FindKeys(const AttendPart& a, int tile, TileKeys* keys) {
  keys->seen = 0;
  if (tile >= a.part_end) return;
  for (int r = 0; r < a.rows; ++r) keys->seen |= SeenByRow(a, r, tile);
  for (int g = 0; g < kTileGroups; ++g) {
    const int slot = (tile + g * 16) % a.block_tokens, block = (tile + g * 16) / a.block_tokens;
    const bool whole =
        a.head_dim % 32 == 0 && slot + 16 <= a.block_tokens && ((keys->seen >> (g * 16)) & 0xffff) == 0xffff;
    const int64_t at = a.head_offset + int64_t{slot} * a.head_dim;
    keys->k[g] = whole ? static_cast<const uint16_t*>(a.k_blocks[block]) + at : nullptr;
    keys->v[g] = whole ? static_cast<const uint16_t*>(a.v_blocks[block]) + at : nullptr;
  }
}

// Sixteen keys (values) one behind the other, dp apart: a copy with zeros behind head_dim and for unseen
// ones.
inline const uint16_t* CopyGroup(const AttendPart& a, const void* const* blocks, int64_t head_offset,
                                 int first, uint64_t seen, uint16_t* copy) {
  for (int i = 0; i < 16; ++i, copy += a.dp, seen >>= 1) {
    for (int d = 0; d < a.dp; d += 32) _mm512_storeu_si512(copy + d, _mm512_setzero_si512());
    if ((seen & 1) == 0) continue;
    const int64_t at = head_offset + int64_t{(first + i) % a.block_tokens} * a.head_dim;
    __builtin_memcpy(copy, static_cast<const uint16_t*>(blocks[(first + i) / a.block_tokens]) + at,
                     a.head_dim * 2);
  }
  return copy - 16 * a.dp;
}

// rows[i] lane j -> rows[j] lane i, of 16 x 16 pairs.
inline __attribute__((always_inline)) void Transpose16(__m512i (&r)[16]) {
  __m512i t[16], u[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    u[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    u[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    u[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    u[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {  // u[4q + c], quarter l: lane 4l + c of rows 4q to 4q + 3
    const __m512i even_low = _mm512_shuffle_i32x4(u[c], u[4 + c], 0x88),
                  even_high = _mm512_shuffle_i32x4(u[8 + c], u[12 + c], 0x88),
                  odd_low = _mm512_shuffle_i32x4(u[c], u[4 + c], 0xdd),
                  odd_high = _mm512_shuffle_i32x4(u[8 + c], u[12 + c], 0xdd);
    r[c] = _mm512_shuffle_i32x4(even_low, even_high, 0x88);
    r[8 + c] = _mm512_shuffle_i32x4(even_low, even_high, 0xdd);
    r[4 + c] = _mm512_shuffle_i32x4(odd_low, odd_high, 0x88);
    r[12 + c] = _mm512_shuffle_i32x4(odd_low, odd_high, 0xdd);
  }
}

// A group of 16 keys, dp apart. `next`: a group that is wanted soon, fetched line by line beside this one, as
// in one burst the fetches would hold up the loads behind them.
inline void PackKeys(const uint16_t* keys, int dp, const uint16_t* next, uint32_t* packed) {
  for (int d = 0; d < dp; d += 32) {
    __m512i rows[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) rows[i] = LoadPairs(keys + i * dp + d), Fetch(next + i * dp + d);
    Transpose16(rows);
    uint32_t* out = packed + d / 2 * kTileTokens;
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) _mm512_storeu_si512(out + i * kTileTokens, rows[i]);
  }
}

// Two values, dp apart, 32 elements as pairs: first those that lie in the lower halves of a register's
// quarters; NaturalOrder turns them back.
inline __attribute__((always_inline)) void LoadValuePair(const uint16_t* values, int dp, const uint16_t* next,
                                                         __m512i* low, __m512i* high) {
  const __m512i a = LoadPairs(values), b = LoadPairs(values + dp);
  Fetch(next), Fetch(next + dp);
  *low = _mm512_unpacklo_epi16(a, b);
  *high = _mm512_unpackhi_epi16(a, b);
}

inline void PackValues(const uint16_t* values, int dp, const uint16_t* next, uint32_t* packed) {
  for (int i = 0; i < 8; ++i, values += 2 * dp, next += 2 * dp, packed += dp) {
    for (int d = 0; d < dp; d += 32) {
      __m512i low, high;
      LoadValuePair(values + d, dp, next + d, &low, &high);
      _mm512_storeu_si512(packed + d, low);
      _mm512_storeu_si512(packed + d + 16, high);
    }
  }
}

inline void NaturalOrder(float* acc32, __m512 factor) {
  const __m512i first = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23),
                second = _mm512_setr_epi32(8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31);
  const __m512 low = _mm512_mul_ps(_mm512_loadu_ps(acc32), factor),
               high = _mm512_mul_ps(_mm512_loadu_ps(acc32 + 16), factor);
  _mm512_storeu_ps(acc32, _mm512_permutex2var_ps(low, first, high));
  _mm512_storeu_ps(acc32 + 16, _mm512_permutex2var_ps(low, second, high));
}

// scores[m][64] of M rows: q [M rows, dp / 2 pairs].
template <int M>
inline void ScoreTile(const uint32_t* q, int q_stride, const uint32_t* keys, int pairs, float* scores) {
  __m512 sums[M][kKeyVectors];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
    for (int n = 0; n < kKeyVectors; ++n) sums[m][n] = _mm512_setzero_ps();
  }
  for (int i = 0; i < pairs; ++i) {
    __m512i k[kKeyVectors];
#pragma GCC unroll 8
    for (int n = 0; n < kKeyVectors; ++n) k[n] = LoadPairs(keys + i * kTileTokens + n * 16);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const __m512i pair = Broadcast(q + m * q_stride + i);
#pragma GCC unroll 8
      for (int n = 0; n < kKeyVectors; ++n) sums[m][n] = DotPairs(sums[m][n], pair, k[n]);
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
    for (int n = 0; n < kKeyVectors; ++n) _mm512_storeu_ps(scores + m * kTileTokens + n * 16, sums[m][n]);
  }
}

inline __m512 Interleaved(__m512 a, __m512 b) {
  return _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
}

// Of four vectors, sums over each quarter: quarter i of the result holds those of quarters i.
inline __attribute__((always_inline)) __m512 SumQuarters(const __m512 (&v)[4]) {
  const __m512d a = (__m512d)Interleaved(v[0], v[1]), b = (__m512d)Interleaved(v[2], v[3]);
  return _mm512_add_ps((__m512)_mm512_unpacklo_pd(a, b), (__m512)_mm512_unpackhi_pd(a, b));
}
// [a's quarters 0 + 1, 2 + 3, b's 0 + 1, 2 + 3]
inline __attribute__((always_inline)) __m512 SumNeighbours(__m512 a, __m512 b) {
  return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}

// scores[m][16] of M rows and a group of 16 keys as they lie: with few rows, sums across lanes cost less than
// packing.
template <int M>
inline void ScoreGroup(const uint32_t* q, int q_stride, const uint16_t* keys, int dp, const uint16_t* next,
                       float* scores) {
  __m512 half[2][M];
#pragma GCC unroll 2
  for (int h = 0; h < 2; ++h) {
    __m512 quads[2][M];
#pragma GCC unroll 2
    for (int f = 0; f < 2; ++f, keys += 4 * dp, next += 4 * dp) {
      __m512 sums[M][4];
#pragma GCC unroll 4
      for (int m = 0; m < M; ++m) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) sums[m][i] = _mm512_setzero_ps();
      }
      for (int d = 0; d < dp; d += 32) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
          const __m512i key = LoadPairs(keys + i * dp + d);
          Fetch(next + i * dp + d);
#pragma GCC unroll 4
          for (int m = 0; m < M; ++m)
            sums[m][i] = DotPairs(sums[m][i], key, LoadPairs(q + m * q_stride + d / 2));
        }
      }
#pragma GCC unroll 4
      for (int m = 0; m < M; ++m) quads[f][m] = SumQuarters(sums[m]);
    }
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m) half[h][m] = SumNeighbours(quads[0][m], quads[1][m]);
  }
#pragma GCC unroll 4
  for (int m = 0; m < M; ++m)
    _mm512_storeu_ps(scores + m * kTileTokens, SumNeighbours(half[0][m], half[1][m]));
}

// 2^f for |f| <= 1/2: relative error 2.7e-6, far below the rounding to bf16 that follows.
inline __m512 PowerOfTwo(__m512 f) {
  __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(0x1.3997d4p-7f), f, _mm512_set1_ps(0x1.ca1440p-5f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0x1.ec06dap-3f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0x1.62e0dcp-1f));
  return _mm512_fmadd_ps(p, f, _mm512_set1_ps(0x1.ffffe8p-1f));
}

inline float RoundUpToInteger(float x) {
  return _mm_cvtss_f32(
      _mm_roundscale_ss(_mm_setzero_ps(), _mm_set_ss(x), _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC));
}

// 2^(n), n an integer below 1; 0 where far below.
inline float WholePower(float n) { return _mm_cvtss_f32(_mm_scalef_ss(_mm_set_ss(1), _mm_set_ss(n))); }

// scores [64] of one row become pairs of weights in bf16. `max`: of u, so far; `sums` [16]: of the weights.
inline void Exponentiate(const float* scores, uint64_t seen, float to_u, uint32_t* weights, float* acc,
                         int dp, float* max, float* sums) {
  const __m512 unseen = _mm512_set1_ps(-__builtin_inff()), lowest = _mm512_set1_ps(-0x1p127f);
  __m512 u[kKeyVectors];
#pragma GCC unroll 8
  for (int n = 0; n < kKeyVectors; ++n) {
    u[n] = _mm512_mask_mul_ps(unseen, static_cast<__mmask16>(seen >> (16 * n)),
                              _mm512_loadu_ps(scores + 16 * n), _mm512_set1_ps(to_u));
  }
  const float top = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(u[0], u[1]), _mm512_max_ps(u[2], u[3])));
  if (top > *max) {
    const float step = RoundUpToInteger(*max) - RoundUpToInteger(top);
    if (step < 0 && *max != -__builtin_inff()) {
      const __m512 shrink = _mm512_set1_ps(WholePower(step));
      for (int d = 0; d < dp; d += 16)
        _mm512_storeu_ps(acc + d, _mm512_mul_ps(_mm512_loadu_ps(acc + d), shrink));
      _mm512_storeu_ps(sums, _mm512_mul_ps(_mm512_loadu_ps(sums), shrink));
    }
    *max = top;
  }
  const __m512 base = _mm512_set1_ps(*max == -__builtin_inff() ? 0 : RoundUpToInteger(*max));
  __m512 total = _mm512_loadu_ps(sums);
#pragma GCC unroll 8
  for (int n = 0; n < kKeyVectors; n += 2) {
    __m512 p[2];
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      const __m512 x = _mm512_max_ps(lowest, u[n + i]);  // keeps NaN
      const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
      p[i] = _mm512_scalef_ps(PowerOfTwo(_mm512_sub_ps(x, whole)), _mm512_sub_ps(whole, base));
    }
    const __m512i pairs = (__m512i)_mm512_cvtne2ps_pbh(p[1], p[0]);
    _mm512_storeu_si512(weights + 8 * n, pairs);
    total = DotPairs(total, pairs, _mm512_set1_epi32(0x3f803f80));  // each times 1
  }
  _mm512_storeu_ps(sums, total);
}

// acc[m][16 N] += weights of the pairs [first, last) times values; load(i, v) gives those of pair i.
template <int M, int N, class Load>
inline __attribute__((always_inline)) void Weigh(const uint32_t* weights, int dp, int first, int last,
                                                 float* acc, const Load& load) {
  __m512 sums[M][N];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) sums[m][n] = _mm512_loadu_ps(acc + int64_t{m} * dp + n * 16);
  }
  for (int i = first; i < last; ++i) {
    __m512i v[N];
    load(i, v);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const __m512i pair = Broadcast(weights + m * kTilePairs + i);
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) sums[m][n] = DotPairs(sums[m][n], pair, v[n]);
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) _mm512_storeu_ps(acc + int64_t{m} * dp + n * 16, sums[m][n]);
  }
}

// Packed values.
template <int M, int N>
inline void WeighTile(const uint32_t* weights, const uint32_t* values, int dp, int first, int last,
                      float* acc) {
  Weigh<M, N>(
      weights, dp, first, last, acc, [&](int i, __m512i(&v)[N]) __attribute__((always_inline)) {
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) v[n] = LoadPairs(values + i * dp + n * 16);
      });
}

// A group of 16 values as they lie, pairs [first, last) of its eight.
template <int M, int N>
inline void WeighGroup(const uint32_t* weights, const uint16_t* values, int dp, const uint16_t* next,
                       int first, int last, float* acc) {
  Weigh<M, N>(
      weights, dp, first, last, acc, [&](int i, __m512i(&v)[N]) __attribute__((always_inline)) {
#pragma GCC unroll 8
        for (int n = 0; n < N; n += 2)
          LoadValuePair(values + 2 * i * dp + n * 16, dp, next + 2 * i * dp + n * 16, &v[n], &v[n + 1]);
      });
}

// The scratch of a part; `rows` are those of all its heads.
struct AttendScratch {
  uint32_t* keys;     // [dp / 2, 64]
  uint32_t* values;   // [32, dp]
  float* scores;      // [6, 64], with few rows [rows, 64]
  uint32_t* weights;  // [rows, 32]
  uint32_t* q;        // [rows, dp / 2]
  float* sums;        // [rows, 16]
  uint16_t* copy;     // [16, dp], 16 keys that do not lie as they should
};

// A tile, and the one behind it.
struct TileWalk {
  const AttendPart& a;
  const AttendScratch& s;
  int tile = 0;
  const TileKeys *keys = nullptr, *next_keys = nullptr;

  // Group g of the keys or values of one head, sixteen whole rows.
  const uint16_t* Group(bool values, int head, int g) const {
    const uint16_t* const group = values ? keys->v[g] : keys->k[g];
    if (group != nullptr) return group + head * a.head_stride;
    return CopyGroup(a, values ? a.v_blocks : a.k_blocks, a.head_offset + head * a.head_stride, tile + 16 * g,
                     keys->seen >> (16 * g), s.copy);
  }
  // What to fetch while something else is computed with.
  const uint16_t* Ahead(bool next_tile, bool values, int head, int g) const {
    const TileKeys& of = next_tile ? *next_keys : *keys;
    const uint16_t* const group = of.seen == 0 ? nullptr : values ? of.v[g] : of.k[g];
    return group != nullptr ? group + head * a.head_stride : s.copy;
  }
};

// Up to kAttendRows rows at a time: body.operator()<M>(first row).
template <class Body>
inline void ForRowTiles(int rows, const Body& body) {
  for (int first = 0; first < rows;) {
    const int left = rows - first;
    const int take = left <= kAttendRows ? left : left < 2 * kAttendRows ? (left + 1) / 2 : kAttendRows;
    if (take == 1) body.template operator()<1>(first);
    if (take == 2) body.template operator()<2>(first);
    if (take == 3) body.template operator()<3>(first);
    if (take == 4) body.template operator()<4>(first);
    if (take == 5) body.template operator()<5>(first);
    if (take == 6) body.template operator()<6>(first);
    first += take;
  }
}

// Scores of M rows of one head from `first` on become weights.
template <int M>
inline void WeightsOfScores(const TileWalk& w, int head, int first, const float* scores) {
  const AttendPart& a = w.a;
  for (int i = first; i < first + M; ++i, scores += kTileTokens) {
    const int row = head * a.rows * a.group + i;
    const uint64_t seen = SeenByRow(a, i / a.group, w.tile);
    uint32_t* const weights = w.s.weights + int64_t{row} * kTilePairs;
    if (seen == 0) {
      for (int pair = 0; pair < kTilePairs; pair += 16)
        _mm512_storeu_si512(weights + pair, _mm512_setzero_si512());
      continue;
    }
    const int64_t at = head * a.state_stride + i;
    Exponentiate(scores, seen, a.scale * 0x1.715476p+0f, weights,
                 a.acc + head * a.state_stride + int64_t{i} * a.dp, a.dp, a.max + at,
                 w.s.sums + int64_t{row} * 16);
  }
}

// The pairs of keys that some of M rows see.
struct PairRange {
  int first = 0, last = 0;
};
template <int M>
inline PairRange SeenPairs(const TileWalk& w, int first) {
  uint64_t any = 0;
  for (int i = first; i < first + M; ++i) any |= SeenByRow(w.a, i / w.a.group, w.tile);
  if (any == 0) return {};
  return {__builtin_ctzll(any) / 2, (63 - __builtin_clzll(any)) / 2 + 1};
}

// Many rows: the keys (values) of one head are packed, for all of its rows.
inline void PackedTile(const TileWalk& w) {
  const AttendPart& a = w.a;
  const int q_rows = a.rows * a.group, dp = a.dp;
  for (int head = 0; head < a.heads; ++head) {
    const bool last = head + 1 == a.heads;
    for (int g = 0; g < kTileGroups; ++g)
      PackKeys(w.Group(false, head, g), dp, w.Ahead(false, last, last ? 0 : head + 1, g), w.s.keys + 16 * g);
    ForRowTiles(q_rows, [&]<int M>(int first) {
      ScoreTile<M>(w.s.q + int64_t{head * q_rows + first} * (dp / 2), dp / 2, w.s.keys, dp / 2, w.s.scores);
      WeightsOfScores<M>(w, head, first, w.s.scores);
    });
  }
  for (int head = 0; head < a.heads; ++head) {
    const bool last = head + 1 == a.heads;
    for (int g = 0; g < kTileGroups; ++g)
      PackValues(w.Group(true, head, g), dp, w.Ahead(last, !last, last ? 0 : head + 1, g),
                 w.s.values + 8 * g * dp);
    ForRowTiles(q_rows, [&]<int M>(int first) {
      const PairRange pairs = SeenPairs<M>(w, first);
      const uint32_t* weights = w.s.weights + int64_t{head * q_rows + first} * kTilePairs;
      float* const acc = a.acc + head * a.state_stride + int64_t{first} * dp;
      for (int d = 0; d < dp;) {
        if (d + 64 <= dp)
          WeighTile<M, 4>(weights, w.s.values + d, dp, pairs.first, pairs.last, acc + d), d += 64;
        else
          WeighTile<M, 2>(weights, w.s.values + d, dp, pairs.first, pairs.last, acc + d), d += 32;
      }
    });
  }
}

// Few rows: keys and values are met as they lie, in the order of memory: half a tile of all heads, then the
// other half. What is fetched runs kHalvesAhead halves of a head ahead of that.
inline void StreamedTile(const TileWalk& w) {
  const AttendPart& a = w.a;
  const int q_rows = a.rows * a.group, dp = a.dp, steps = 4 * a.heads;
  for (int step = 0; step < steps; ++step) {
    const bool values = step >= 2 * a.heads;
    const int half = step / a.heads % 2, head = step % a.heads;
    const int then = (step + kHalvesAhead) % steps;
    const uint16_t* next[2];
    for (int i = 0; i < 2; ++i) {
      next[i] = w.Ahead(step + kHalvesAhead >= steps, then >= 2 * a.heads, then % a.heads,
                        then / a.heads % 2 * 2 + i);
    }
    ForRowTiles(q_rows, [&]<int M>(int first) {
      const int row = head * q_rows + first;
      if (!values) {
        float* const scores = w.s.scores + int64_t{row} * kTileTokens;
        const uint32_t* q = w.s.q + int64_t{row} * (dp / 2);
        for (int i = 0; i < 2; ++i) {
          const int g = 2 * half + i;
          const uint16_t* const keys = w.Group(false, head, g);
          ScoreGroup<M <= 4 ? M : 3>(q, dp / 2, keys, dp, next[i], scores + 16 * g);
          if constexpr (M > 4)
            ScoreGroup<M - 3>(q + 3 * (dp / 2), dp / 2, keys, dp, next[i], scores + 3 * kTileTokens + 16 * g);
        }
        if (half == 1) WeightsOfScores<M>(w, head, first, scores);
        return;
      }
      const PairRange pairs = SeenPairs<M>(w, first);
      const uint32_t* const weights = w.s.weights + int64_t{row} * kTilePairs;
      float* const acc = a.acc + head * a.state_stride + int64_t{first} * dp;
      for (int i = 0; i < 2; ++i) {
        const int g = 2 * half + i;
        const int begin = pairs.first > 8 * g ? pairs.first - 8 * g : 0,
                  end = pairs.last < 8 * g + 8 ? pairs.last - 8 * g : 8;
        if (begin >= end) continue;
        const uint16_t* const group = w.Group(true, head, g);
        for (int d = 0; d < dp;) {
          if (d + 64 <= dp)
            WeighGroup<M, 4>(weights + 8 * g, group + d, dp, next[i] + d, begin, end, acc + d), d += 64;
          else
            WeighGroup<M, 2>(weights + 8 * g, group + d, dp, next[i] + d, begin, end, acc + d), d += 32;
        }
      }
    });
  }
}

// Of one head, from powers of two to exp(s - max), and acc to its natural order.
inline void FinishHead(const AttendPart& a, const AttendScratch& s, int head) {
  const int q_rows = a.rows * a.group;
  float* const acc = a.acc + head * a.state_stride;
  float* const max = a.max + head * a.state_stride;
  float* const sum = a.sum + head * a.state_stride;
  for (int i = 0; i < q_rows; ++i) {
    const float u = max[i];
    float factor = 0;
    if (u != -__builtin_inff()) {
      factor = __builtin_exp2f(RoundUpToInteger(u) - u);
      max[i] = u * 0x1.62e430p-1f;
    }
    sum[i] = _mm512_reduce_add_ps(_mm512_loadu_ps(s.sums + int64_t{head * q_rows + i} * 16)) * factor;
    if (sum[i] != sum[i]) max[i] = sum[i];  // NaN everywhere must not look like a row that saw no key
    for (int d = 0; d < a.dp; d += 32) NaturalOrder(acc + int64_t{i} * a.dp + d, _mm512_set1_ps(factor));
  }
}

void Attend(const AttendPart& a) {
  const int q_rows = a.rows * a.group, rows = a.heads * q_rows, dp = a.dp;
  AttendScratch s;
  s.keys = reinterpret_cast<uint32_t*>(a.scratch);
  s.values = s.keys + dp / 2 * kTileTokens;
  s.scores = reinterpret_cast<float*>(s.values + kTilePairs * dp);
  s.weights = reinterpret_cast<uint32_t*>(s.scores + (a.few ? rows : kAttendRows) * kTileTokens);
  s.q = s.weights + int64_t{rows} * kTilePairs;
  s.sums = reinterpret_cast<float*>(s.q + int64_t{rows} * (dp / 2));
  s.copy = reinterpret_cast<uint16_t*>(s.sums + int64_t{rows} * 16);

  for (int64_t i = 0; i < int64_t{rows} * dp; i += 32) {
    _mm512_storeu_si512(
        s.q + i / 2, (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(a.q + i + 16), _mm512_loadu_ps(a.q + i)));
  }
  for (int64_t i = 0; i < int64_t{rows} * 16; ++i) s.sums[i] = 0;
  for (int head = 0; head < a.heads; ++head) {
    for (int i = 0; i < q_rows; ++i) a.max[head * a.state_stride + i] = -__builtin_inff();
    for (int64_t i = 0; i < int64_t{q_rows} * dp; ++i) a.acc[head * a.state_stride + i] = 0;
  }

  TileKeys tiles[2];
  TileWalk walk{.a = a, .s = s};
  FindKeys(a, a.part_begin, &tiles[0]);
  for (int tile = a.part_begin, now = 0; tile < a.part_end; tile += kTileTokens, now ^= 1) {
    FindKeys(a, tile + kTileTokens, &tiles[now ^ 1]);
    if (tiles[now].seen == 0) continue;
    walk.tile = tile, walk.keys = &tiles[now], walk.next_keys = &tiles[now ^ 1];
    a.few ? StreamedTile(walk) : PackedTile(walk);
  }
  for (int head = 0; head < a.heads; ++head) FinishHead(a, s, head);
}

}  // namespace
}  // namespace lombard::internal::isa_avx512_bf16
