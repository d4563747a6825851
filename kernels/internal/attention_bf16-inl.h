// Partial attention over bf16 KV as blocked products of bf16 pairs (VDPBF16PS), whether one row or hundreds.
//
// Loop order: tiles of 64 keys outside, query rows inside, six at a time. A tile is packed once, keys and
// values so that a broadcast pair of the other operand meets 16 sums at a time, without sums across lanes:
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

constexpr int kAttendRows = 6;  // register tile: 6 rows x 4 vectors of sums
constexpr int kKeyVectors = kTileTokens / 16;
constexpr int kTilePairs = kTileTokens / 2;
constexpr int kTileGroups = kTileTokens / 16;

inline __m512 DotPairs(__m512 sums, __m512i a, __m512i b) {
  return _mm512_dpbf16_ps(sums, (__m512bh)a, (__m512bh)b);
}
inline __m512i Broadcast(const uint32_t* pair) { return _mm512_set1_epi32(static_cast<int>(*pair)); }
inline __m512i LoadPairs(const void* p) { return _mm512_loadu_si512(p); }

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
inline const uint16_t* CopyGroup(const AttendPart& a, const void* const* blocks, int first, uint64_t seen,
                                 uint16_t* copy) {
  for (int i = 0; i < 16; ++i, copy += a.dp, seen >>= 1) {
    for (int d = 0; d < a.dp; d += 32) _mm512_storeu_si512(copy + d, _mm512_setzero_si512());
    if ((seen & 1) == 0) continue;
    const int64_t at = a.head_offset + int64_t{(first + i) % a.block_tokens} * a.head_dim;
    __builtin_memcpy(copy, static_cast<const uint16_t*>(blocks[(first + i) / a.block_tokens]) + at,
                     a.head_dim * 2);
  }
  return copy - 16 * a.dp;
}

// The next tile's bytes, fetched while this one is computed with: a line or two between other work, since in
// one burst they would fill the queues and hold up the loads behind them.
class FetchAhead {
 public:
  void Start(const TileKeys& next, int head_dim) {
    for (int g = 0; g < kTileGroups; ++g) {
      groups_[g] = reinterpret_cast<const char*>(next.seen == 0 ? nullptr : next.k[g]);
      groups_[kTileGroups + g] = reinterpret_cast<const char*>(next.seen == 0 ? nullptr : next.v[g]);
    }
    group_bytes_ = 16 * head_dim * 2, next_group_ = 0, line_ = end_ = nullptr;
  }
  inline void Lines(int count) {
    for (; count > 0; --count, line_ += 64) {
      if (line_ == end_) {
        if (next_group_ == 2 * kTileGroups) return;
        line_ = groups_[next_group_++];
        end_ = line_ == nullptr ? nullptr : line_ + group_bytes_;
        if (line_ == nullptr) return;
      }
      _mm_prefetch(line_, _MM_HINT_T0);
    }
  }

 private:
  const char* groups_[2 * kTileGroups];
  const char *line_ = nullptr, *end_ = nullptr;
  int group_bytes_ = 0, next_group_ = 0;
};

// rows[i] lane j -> rows[j] lane i, of 16 x 16 pairs.
inline void Transpose16(__m512i (&r)[16]) {
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

// 16 keys `stride` apart.
inline void PackKeys(const uint16_t* keys, int stride, int dp, uint32_t* packed, FetchAhead& ahead) {
  for (int d = 0; d < dp; d += 32) {
    __m512i rows[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) rows[i] = LoadPairs(keys + i * stride + d);
    ahead.Lines(8);
    Transpose16(rows);
    uint32_t* out = packed + d / 2 * kTileTokens;
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) _mm512_storeu_si512(out + i * kTileTokens, rows[i]);
  }
}

// 16 values `stride` apart. Of each 32 elements first those that lie in the lower halves of a register's
// quarters; NaturalOrder turns them back.
inline void PackValues(const uint16_t* values, int stride, int dp, uint32_t* packed, FetchAhead& ahead) {
  for (int i = 0; i < 8; ++i, values += 2 * stride, packed += dp) {
    for (int d = 0; d < dp; d += 32) {
      const __m512i a = LoadPairs(values + d), b = LoadPairs(values + stride + d);
      _mm512_storeu_si512(packed + d, _mm512_unpacklo_epi16(a, b));
      _mm512_storeu_si512(packed + d + 16, _mm512_unpackhi_epi16(a, b));
    }
    ahead.Lines(2);
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
inline void ScoreTile(const uint32_t* q, int q_stride, const uint32_t* keys, int pairs, float* scores,
                      FetchAhead& ahead) {
  __m512 sums[M][kKeyVectors];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
    for (int n = 0; n < kKeyVectors; ++n) sums[m][n] = _mm512_setzero_ps();
  }
  for (int i = 0; i < pairs; ++i) {
    ahead.Lines(2);
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

// acc[m][16 N] += weights of the pairs [first, last) times values.
template <int M, int N>
inline void WeighTile(const uint32_t* weights, const uint32_t* values, int dp, int first, int last,
                      float* acc, FetchAhead& ahead) {
  __m512 sums[M][N];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) sums[m][n] = _mm512_loadu_ps(acc + int64_t{m} * dp + n * 16);
  }
  for (int i = first; i < last; ++i) {
    ahead.Lines(2);
    __m512i v[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) v[n] = LoadPairs(values + i * dp + n * 16);
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

// The scratch of a part, [q_rows] rows each where said.
struct AttendScratch {
  uint32_t* keys;     // [dp / 2, 64]
  uint32_t* values;   // [32, dp]
  float* scores;      // [6, 64]
  uint32_t* weights;  // [6, 32]
  uint32_t* q;        // [q_rows, dp / 2]
  float* sums;        // [q_rows, 16]
  uint16_t* copy;     // [16, dp], 16 keys that do not lie as they should
};

template <int M>
inline void AttendTile(const AttendPart& a, const AttendScratch& s, int tile, int first, FetchAhead& ahead) {
  uint64_t seen[M], any = 0;
  for (int m = 0; m < M; ++m) any |= seen[m] = SeenByRow(a, (first + m) / a.group, tile);
  if (any == 0) return;
  const int dp = a.dp;
  ScoreTile<M>(s.q + int64_t{first} * (dp / 2), dp / 2, s.keys, (a.head_dim + 1) / 2, s.scores, ahead);
  float* acc = a.acc + int64_t{first} * dp;
  for (int m = 0; m < M; ++m) {
    Exponentiate(s.scores + m * kTileTokens, seen[m], a.scale * 0x1.715476p+0f, s.weights + m * kTilePairs,
                 acc + int64_t{m} * dp, dp, a.max + first + m, s.sums + int64_t{first + m} * 16);
  }
  const int first_pair = __builtin_ctzll(any) / 2, last_pair = (63 - __builtin_clzll(any)) / 2 + 1;
  int d = 0;
  for (; d + 64 <= dp; d += 64)
    WeighTile<M, 4>(s.weights, s.values + d, dp, first_pair, last_pair, acc + d, ahead);
  if (d < dp) WeighTile<M, 2>(s.weights, s.values + d, dp, first_pair, last_pair, acc + d, ahead);
}

inline void AttendTileRows(const AttendPart& a, const AttendScratch& s, int tile, int first, int rows,
                           FetchAhead& ahead) {
  if (rows == 1) AttendTile<1>(a, s, tile, first, ahead);
  if (rows == 2) AttendTile<2>(a, s, tile, first, ahead);
  if (rows == 3) AttendTile<3>(a, s, tile, first, ahead);
  if (rows == 4) AttendTile<4>(a, s, tile, first, ahead);
  if (rows == 5) AttendTile<5>(a, s, tile, first, ahead);
  if (rows == 6) AttendTile<6>(a, s, tile, first, ahead);
}

void Attend(const AttendPart& a) {
  const int q_rows = a.rows * a.group, dp = a.dp;
  AttendScratch s;
  s.keys = reinterpret_cast<uint32_t*>(a.scratch);
  s.values = s.keys + dp / 2 * kTileTokens;
  s.scores = reinterpret_cast<float*>(s.values + kTilePairs * dp);
  s.weights = reinterpret_cast<uint32_t*>(s.scores + kAttendRows * kTileTokens);
  s.q = s.weights + kAttendRows * kTilePairs;
  s.sums = reinterpret_cast<float*>(s.q + int64_t{q_rows} * (dp / 2));
  s.copy = reinterpret_cast<uint16_t*>(s.sums + int64_t{q_rows} * 16);

  for (int64_t i = 0; i < int64_t{q_rows} * dp; i += 32) {
    _mm512_storeu_si512(
        s.q + i / 2, (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(a.q + i + 16), _mm512_loadu_ps(a.q + i)));
    _mm512_storeu_ps(a.acc + i, _mm512_setzero_ps());
    _mm512_storeu_ps(a.acc + i + 16, _mm512_setzero_ps());
  }
  for (int i = 0; i < q_rows; ++i) {
    a.max[i] = -__builtin_inff();
    _mm512_storeu_ps(s.sums + int64_t{i} * 16, _mm512_setzero_ps());
  }

  TileKeys tiles[2];
  FetchAhead ahead;
  FindKeys(a, a.part_begin, &tiles[0]);
  for (int tile = a.part_begin, now = 0; tile < a.part_end; tile += kTileTokens, now ^= 1) {
    const TileKeys& next = tiles[now ^ 1];
    FindKeys(a, tile + kTileTokens, &tiles[now ^ 1]);
    if (tiles[now].seen == 0) continue;
    ahead.Start(next, a.head_dim);
    for (int g = 0; g < kTileGroups; ++g) {
      const uint64_t seen = tiles[now].seen >> (16 * g);
      const uint16_t *k = tiles[now].k[g], *v = tiles[now].v[g];
      PackKeys(k != nullptr ? k : CopyGroup(a, a.k_blocks, tile + 16 * g, seen, s.copy), dp, dp,
               s.keys + 16 * g, ahead);
      PackValues(v != nullptr ? v : CopyGroup(a, a.v_blocks, tile + 16 * g, seen, s.copy), dp, dp,
                 s.values + 8 * g * dp, ahead);
    }
    for (int first = 0; first < q_rows;) {
      const int left = q_rows - first;
      const int take = left <= kAttendRows ? left : left < 2 * kAttendRows ? (left + 1) / 2 : kAttendRows;
      AttendTileRows(a, s, tile, first, take, ahead);
      first += take;
    }
  }

  // From powers of two to exp(s - max).
  for (int i = 0; i < q_rows; ++i) {
    const float u = a.max[i];
    float factor = 0;
    if (u != -__builtin_inff()) {
      const float above = RoundUpToInteger(u) - u;  // in [0, 1)
      factor = __builtin_exp2f(above);
      a.max[i] = u * 0x1.62e430p-1f;
    }
    a.sum[i] = _mm512_reduce_add_ps(_mm512_loadu_ps(s.sums + int64_t{i} * 16)) * factor;
    if (a.sum[i] != a.sum[i]) a.max[i] = a.sum[i];  // NaN everywhere must not look like a row that saw no key
    for (int d = 0; d < dp; d += 32) NaturalOrder(a.acc + int64_t{i} * dp + d, _mm512_set1_ps(factor));
  }
}

}  // namespace
}  // namespace lombard::internal::isa_avx512_bf16
