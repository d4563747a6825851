// Partial attention of one KV head over one part of a span. Included once per instruction set after
// matmul-inl.h.
//
// Loop order: tiles of 64 keys outside, runs of query rows that see the same keys of the tile inside; so
// there is no mask, and what a row may not see is never touched. Per row the order of every sum is that of
// the keys, whatever rows are beside it.
#pragma once

#include "kernels/internal/matmul-inl.h"

namespace lombard::internal::LOMBARD_ISA {
namespace {

// Calls fn(address of the first element, first key, keys) for the stretches of [begin, end) that are
// contiguous in memory.
template <class T, class Fn>
inline void ForStretches(const AttendPart& a, const void* const* blocks, int begin, int end, const Fn& fn) {
  for (int t = begin; t < end;) {
    const int slot = t % a.block_tokens;
    const int count = end - t < a.block_tokens - slot ? end - t : a.block_tokens - slot;
    fn(static_cast<const T*>(blocks[t / a.block_tokens]) + a.head_offset + int64_t{slot} * a.head_dim, t,
       count);
    t += count;
  }
}

template <class T>
inline void PrefetchKeys(const AttendPart& a, const void* const* blocks, int begin, int end) {
  ForStretches<T>(a, blocks, begin, end, [&](const T* keys, int, int count) {
    const char* bytes = reinterpret_cast<const char*>(keys);
    const int64_t size = int64_t{count} * a.head_dim * static_cast<int64_t>(sizeof(T));
    for (int64_t i = 0; i < size; i += 64) Prefetch(bytes + i);
  });
}

// Whole stretch into fp32 rows of dp, zeros behind head_dim.
template <class T>
inline void Widen(const AttendPart& a, const void* const* blocks, int begin, int end, float* rows) {
  ForStretches<T>(a, blocks, begin, end, [&](const T* keys, int t, int count) {
    for (int i = 0; i < count; ++i) {
      float* row = rows + int64_t{t - begin + i} * a.dp;
      ToF32<T>(keys + int64_t{i} * a.head_dim, row, a.head_dim);
      for (int d = a.head_dim; d < a.dp; ++d) row[d] = 0;
    }
  });
}

template <int M, int N, class T>
inline void ScoreTile(const float* q, int dp, const T* keys, int stride, int steps, float* scores) {
  F acc[M][N];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) acc[m][n] = Zero();
  }
  DotTile<false>(q, dp, keys, stride, steps, 0, acc);
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
    if constexpr (N == 4) {
      Sum4(acc[m][0], acc[m][1], acc[m][2], acc[m][3], scores + m * kTileTokens);
    } else {
      for (int n = 0; n < N; ++n) scores[m * kTileTokens + n] = Sum(acc[m][n]);
    }
  }
}

template <int M, class T>
inline void ScoreKeys(const float* q, int dp, const T* keys, int stride, int steps, int count,
                      float* scores) {
  int t = 0;
  for (; t + 4 <= count; t += 4)
    ScoreTile<M, 4>(q, dp, keys + int64_t{t} * stride, stride, steps, scores + t);
  for (; t < count; ++t) ScoreTile<M, 1>(q, dp, keys + int64_t{t} * stride, stride, steps, scores + t);
}

// scores[qi][t] = q[qi] . keys[t] for `rows` query rows and `count` keys.
template <class T>
inline void Scores(const float* q, int rows, int dp, const T* keys, int stride, int steps, int count,
                   float* scores) {
  for (int m = 0; m < rows;) {
    const int take = TakeRows(rows - m, kDotRows);
    const float* q_tile = q + int64_t{m} * dp;
    float* out = scores + m * kTileTokens;
    if (take == 1) ScoreKeys<1>(q_tile, dp, keys, stride, steps, count, out);
    if (take == 2) ScoreKeys<2>(q_tile, dp, keys, stride, steps, count, out);
    if (take == 3) ScoreKeys<3>(q_tile, dp, keys, stride, steps, count, out);
    if constexpr (kDotRows > 3) {
      if (take == 4) ScoreKeys<4>(q_tile, dp, keys, stride, steps, count, out);
      if (take == 5) ScoreKeys<5>(q_tile, dp, keys, stride, steps, count, out);
      if (take == 6) ScoreKeys<6>(q_tile, dp, keys, stride, steps, count, out);
    }
    m += take;
  }
}

// scores [count] of one row become exp(s - max); the row's state moves to the new max.
inline void Exponentiate(float* scores, int count, float* acc, int dp, float* max, float* sum) {
  const int padded = static_cast<int>(RoundUp(count, kLanes));
  for (int t = count; t < padded; ++t) scores[t] = -__builtin_inff();
  F top = Load(scores);
  for (int t = kLanes; t < padded; t += kLanes) top = Max(top, Load(scores + t));
  const float tile_max = MaxOf(top);
  if (tile_max > *max) {
    if (*sum != 0) {
      const F shrink = Exp(Set1(*max - tile_max));
      for (int d = 0; d < dp; d += kLanes) Store(acc + d, Mul(Load(acc + d), shrink));
      float lanes[kLanes];
      Store(lanes, shrink);
      *sum *= lanes[0];
    }
    *max = tile_max;
  }
  const F base = Set1(*max);
  F total = Zero();
  for (int t = 0; t < padded; t += kLanes) {
    const F p = Exp(Sub(Load(scores + t), base));
    Store(scores + t, p);
    total = Add(total, p);
  }
  *sum += Sum(total);
}

template <int M, int N, class T>
inline void WeighTile(const float* weights, const T* values, int stride, int count, float* acc, int dp) {
  F sums[M][N];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) sums[m][n] = Load(acc + int64_t{m} * dp + n * kLanes);
  }
  for (int t = 0; t < count; ++t) {
    F v[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) v[n] = LoadAs(values + int64_t{t} * stride + n * kLanes);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const F p = Set1(weights[m * kTileTokens + t]);
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) sums[m][n] = MulAdd(p, v[n], sums[m][n]);
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) Store(acc + int64_t{m} * dp + n * kLanes, sums[m][n]);
  }
}

template <int M, class T>
inline void WeighRows(const float* weights, const T* values, int stride, int vectors, int count, float* acc,
                      int dp) {
  int d = 0;
  for (; d + 2 <= vectors; d += 2)
    WeighTile<M, 2>(weights, values + d * kLanes, stride, count, acc + d * kLanes, dp);
  for (; d < vectors; ++d) WeighTile<M, 1>(weights, values + d * kLanes, stride, count, acc + d * kLanes, dp);
}

// acc[qi] += sum over t of weights[qi][t] * values[t].
template <class T>
inline void Weigh(const float* weights, int rows, const T* values, int stride, int vectors, int count,
                  float* acc, int dp) {
  for (int m = 0; m < rows;) {
    const int take = TakeRows(rows - m, 4);
    const float* p = weights + m * kTileTokens;
    float* out = acc + int64_t{m} * dp;
    if (take == 1) WeighRows<1>(p, values, stride, vectors, count, out, dp);
    if (take == 2) WeighRows<2>(p, values, stride, vectors, count, out, dp);
    if (take == 3) WeighRows<3>(p, values, stride, vectors, count, out, dp);
    if (take == 4) WeighRows<4>(p, values, stride, vectors, count, out, dp);
    m += take;
  }
}

template <class T>
void Attend(const AttendPart& a) {
  const int q_rows = a.rows * a.group;
  for (int i = 0; i < q_rows; ++i) {
    a.max[i] = -__builtin_inff();
    a.sum[i] = 0;
  }
  for (int64_t i = 0; i < int64_t{q_rows} * a.dp; ++i) a.acc[i] = 0;

  float* const scores = a.scratch;
  float* const keys = scores + kScoreRows * kTileTokens;
  float* const values = keys + int64_t{kTileTokens} * a.dp;
  const bool whole_vectors = a.head_dim % kLanes == 0;
  // Widening pays when the keys of a tile are met often; it does not change the result.
  const bool widen = !whole_vectors || (sizeof(T) == 2 && q_rows >= 2 * kScoreRows);
  const int stride = widen ? a.dp : a.head_dim;
  const int vectors = stride / kLanes;

  for (int tile = a.part_begin; tile < a.part_end; tile += kTileTokens) {
    const int tile_end = a.part_end - tile < kTileTokens ? a.part_end : tile + kTileTokens;
    const auto clip_begin = [&](int r) { return a.begin[r] > tile ? a.begin[r] : tile; };
    const auto clip_end = [&](int r) { return a.end[r] < tile_end ? a.end[r] : tile_end; };
    int seen_begin = tile_end, seen_end = tile;
    for (int r = 0; r < a.rows; ++r) {
      if (clip_begin(r) >= clip_end(r)) continue;
      if (clip_begin(r) < seen_begin) seen_begin = clip_begin(r);
      if (clip_end(r) > seen_end) seen_end = clip_end(r);
    }
    if (seen_begin >= seen_end) continue;
    if (widen) {
      Widen<T>(a, a.k_blocks, seen_begin, seen_end, keys);
      Widen<T>(a, a.v_blocks, seen_begin, seen_end, values);
    }
    // The next tile, if the last row reads on; rows further up stop earlier.
    const int next_end = a.end[a.rows - 1] < a.part_end ? a.end[a.rows - 1] : a.part_end;
    const int ahead_end = next_end - tile_end < kTileTokens ? next_end : tile_end + kTileTokens;
    if (!widen) PrefetchKeys<T>(a, a.k_blocks, tile_end, ahead_end);
    if (!widen) PrefetchKeys<T>(a, a.v_blocks, tile_end, ahead_end);

    for (int r = 0; r < a.rows;) {
      const int begin = clip_begin(r), end = clip_end(r);
      int run_end = r + 1;
      while (run_end < a.rows && clip_begin(run_end) == begin && clip_end(run_end) == end) ++run_end;
      const int first = r * a.group, last = begin < end ? run_end * a.group : first;
      r = run_end;
      for (int qi = first; qi < last; qi += kScoreRows) {
        const int count = last - qi < kScoreRows ? last - qi : kScoreRows;
        const float* q = a.q + int64_t{qi} * a.dp;
        float* acc = a.acc + int64_t{qi} * a.dp;
        if (widen) {
          Scores(q, count, a.dp, keys + int64_t{begin - seen_begin} * a.dp, stride, vectors, end - begin,
                 scores);
        } else {
          ForStretches<T>(a, a.k_blocks, begin, end, [&](const T* k, int t, int n) {
            Scores(q, count, a.dp, k, stride, vectors, n, scores + (t - begin));
          });
        }
        for (int i = 0; i < count; ++i) {
          Exponentiate(scores + i * kTileTokens, end - begin, acc + int64_t{i} * a.dp, a.dp, a.max + qi + i,
                       a.sum + qi + i);
        }
        if (widen) {
          Weigh(scores, count, values + int64_t{begin - seen_begin} * a.dp, stride, vectors, end - begin, acc,
                a.dp);
        } else {
          ForStretches<T>(a, a.v_blocks, begin, end, [&](const T* v, int t, int n) {
            Weigh(scores + (t - begin), count, v, stride, vectors, n, acc, a.dp);
          });
        }
      }
    }
  }
}

void FoldState(const float* acc, float max, float sum, float* dst_acc, float* dst_max, float* dst_sum,
               int dp) {
  if (max == -__builtin_inff()) return;
  const float top = *dst_max > max ? *dst_max : max;
  const F old_factor = *dst_max == -__builtin_inff() ? Zero() : Exp(Set1(*dst_max - top));
  const F new_factor = Exp(Set1(max - top));
  for (int d = 0; d < dp; d += kLanes) {
    Store(dst_acc + d, MulAdd(Load(acc + d), new_factor, Mul(Load(dst_acc + d), old_factor)));
  }
  float sums[kLanes];
  Store(sums, MulAdd(Set1(sum), new_factor, Mul(Set1(*dst_sum), old_factor)));
  *dst_sum = sums[0];
  *dst_max = top;
}

constexpr KernelTable MakeTable() {
  KernelTable table;
  table.lanes = kLanes;
  table.rms_norm = RmsNormRow;
  table.rotate = Rotate;
  table.swiglu = SwiGluRow;
  table.exp = ExpArray;
  table.to_f32[0] = ToF32<float>, table.to_f32[1] = ToF32<F16>, table.to_f32[2] = ToF32<BF16>;
  table.from_f32[0] = FromF32<float>, table.from_f32[1] = FromF32<F16>, table.from_f32[2] = FromF32<BF16>;
  table.round_to[0] = RoundArray<float>, table.round_to[1] = RoundArray<F16>,
  table.round_to[2] = RoundArray<BF16>;
  table.matmul[0] = MatmulRange<float>, table.matmul[1] = MatmulRange<F16>,
  table.matmul[2] = MatmulRange<BF16>;
  table.matmul_direct_rows = kDirectRows;
  table.matmul_rows_tile = kDotRows;
  table.attend[0] = Attend<float>, table.attend[1] = Attend<F16>, table.attend[2] = Attend<BF16>;
  table.fold = FoldState;
  return table;
}

}  // namespace
}  // namespace lombard::internal::LOMBARD_ISA
