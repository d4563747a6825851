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

// Keys (or values) of a tile that lie one behind the other.
struct Stretch {
  const void* data;
  int count;
};

// Those of [begin, end), at most kTileTokens keys; returns how many stretches.
template <class T>
inline int FindStretches(const AttendPart& a, const void* const* blocks, int begin, int end, Stretch* out) {
  int n = 0;
  for (int t = begin; t < end; ++n) {
    const int slot = t % a.block_tokens;
    const int count = end - t < a.block_tokens - slot ? end - t : a.block_tokens - slot;
    out[n] = {static_cast<const T*>(blocks[t / a.block_tokens]) + a.head_offset + int64_t{slot} * a.head_dim,
              count};
    t += count;
  }
  return n;
}

// The next tile's keys, then its values, fetched a few lines at a time while this one is computed with: in
// bursts, or all at once, they would wait for each other and the loads for them.
class TileAhead {
 public:
  template <class T>
  void Start(const AttendPart& a, int begin, int end) {
    count_ = FindStretches<T>(a, a.k_blocks, begin, end, stretches_);
    count_ += FindStretches<T>(a, a.v_blocks, begin, end, stretches_ + count_);
    key_bytes_ = a.head_dim * static_cast<int>(sizeof(T));
    next_ = 0, lines_left_ = 0;
  }
  void Fetch(int lines) {
    while (lines > 0) {
      if (lines_left_ == 0) {
        if (next_ == count_) return;
        line_ = static_cast<const char*>(stretches_[next_].data);
        lines_left_ = (stretches_[next_++].count * key_bytes_ + 63) / 64;
      }
      const int now = lines < lines_left_ ? lines : lines_left_;
      for (int i = 0; i < now; ++i) PrefetchSecondLevel(line_ + i * 64);
      line_ += now * 64, lines_left_ -= now, lines -= now;
    }
  }

 private:
  Stretch stretches_[2 * kTileTokens];
  int count_ = 0, next_ = 0, lines_left_ = 0, key_bytes_ = 0;
  const char* line_ = nullptr;
};

// Keys into fp32 rows of dp in the order of LoadHalf, zeros behind head_dim.
template <class T>
inline void Widen(const AttendPart& a, const Stretch* stretches, int count, float* row) {
  for (int s = 0; s < count; ++s) {
    const T* key = static_cast<const T*>(stretches[s].data);
    for (int i = 0; i < stretches[s].count; ++i, key += a.head_dim, row += a.dp) {
      WidenHalves<T>(key, row, a.head_dim);
      for (int64_t d = RoundUp(a.head_dim, kGroup); d < a.dp; ++d) row[d] = 0;
    }
  }
}

template <int M, int N, class T>
inline void ScoreDots(const float* q, int dp, const T* keys, int stride, int groups, F (&acc)[M][N]) {
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) acc[m][n] = Zero();
  }
  DotTile<0>(q, dp, keys, stride, groups, acc);
}

// scores[m][t] = q[m] . keys[t] for M rows and `count` keys.
template <int M, class T>
inline void ScoreKeys(const float* q, int dp, const T* keys, int stride, int groups, int count, float* scores,
                      TileAhead& ahead) {
  int t = 0;
  for (; t + 4 <= count; t += 4) {
    ahead.Fetch(4 * groups * kGroup * static_cast<int>(sizeof(T)) / 64);  // as many lines as are used here
    const T* four = keys + int64_t{t} * stride;
    if constexpr (M <= kDotRows) {
      F acc[M][4];
      ScoreDots(q, dp, four, stride, groups, acc);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m)
        StoreQuad(scores + m * kTileTokens + t, Sum4(acc[m][0], acc[m][1], acc[m][2], acc[m][3]));
    } else {  // four rows, too many for the registers: two keys at a time, summed over rows, then turned
      static_assert(M == 4);
      F low[4][2], high[4][2];
      ScoreDots(q, dp, four, stride, groups, low);
      Quad a = Sum4(low[0][0], low[1][0], low[2][0], low[3][0]),
           b = Sum4(low[0][1], low[1][1], low[2][1], low[3][1]);
      ScoreDots(q, dp, four + 2 * stride, stride, groups, high);
      Quad c = Sum4(high[0][0], high[1][0], high[2][0], high[3][0]),
           d = Sum4(high[0][1], high[1][1], high[2][1], high[3][1]);
      Transpose(a, b, c, d);
      StoreQuad(scores + t, a);
      StoreQuad(scores + kTileTokens + t, b);
      StoreQuad(scores + 2 * kTileTokens + t, c);
      StoreQuad(scores + 3 * kTileTokens + t, d);
    }
  }
  for (; t < count; ++t) {
    F acc[M][1];
    ScoreDots(q, dp, keys + int64_t{t} * stride, stride, groups, acc);
    for (int m = 0; m < M; ++m) scores[m * kTileTokens + t] = Sum(acc[m][0]);
  }
}

// For `rows` query rows. Keys in their own type are met by four rows at a time, as widening them costs; fp32
// ones by as many as the register tile of the matrix product has.
template <class T>
inline void Scores(const float* q, int rows, int dp, const T* keys, int stride, int groups, int count,
                   float* scores, TileAhead& ahead) {
  constexpr int kRows = sizeof(T) == 4 ? kDotRows : kDotRows > 4 ? kDotRows : 2;
  for (int m = 0; m < rows;) {
    const int take = TakeRows(rows - m, kRows);
    const float* q_tile = q + int64_t{m} * dp;
    float* out = scores + m * kTileTokens;
    if (take == 1) ScoreKeys<1>(q_tile, dp, keys, stride, groups, count, out, ahead);
    if (take == 2) ScoreKeys<2>(q_tile, dp, keys, stride, groups, count, out, ahead);
    if (take == 3) ScoreKeys<3>(q_tile, dp, keys, stride, groups, count, out, ahead);
    if constexpr (kRows > 3) {
      if (take == 4) ScoreKeys<4>(q_tile, dp, keys, stride, groups, count, out, ahead);
    }
    if constexpr (kRows > 4) {
      if (take == 5) ScoreKeys<5>(q_tile, dp, keys, stride, groups, count, out, ahead);
      if (take == 6) ScoreKeys<6>(q_tile, dp, keys, stride, groups, count, out, ahead);
    }
    m += take;
  }
}

// q . k [count] of one row become exp(s - max) with s = scale * q . k; the row's state moves to the new max.
inline void Exponentiate(float* scores, int count, float scale, float* acc, int dp, float* max, float* sum) {
  const int padded = static_cast<int>(RoundUp(count, kLanes));
  F top = Set1(-__builtin_inff());
  for (int t = 0; t < padded; t += kLanes) Store(scores + t, Mul(Load(scores + t), Set1(scale)));
  for (int t = count; t < padded; ++t) scores[t] = -__builtin_inff();
  for (int t = 0; t < padded; t += kLanes) top = Max(top, Load(scores + t));
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

template <int M, class T>
inline __attribute__((always_inline)) void WeighKey(const float* weights, const T* value, F (&low)[M],
                                                    F (&high)[M]) {
  const F first = LoadHalf<0>(value), second = LoadHalf<1>(value);
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
    const F p = Set1(weights[m * kTileTokens]);
    low[m] = MulAdd(p, first, low[m]);
    high[m] = MulAdd(p, second, high[m]);
  }
}

// One group of head_dim, M rows: acc += sum over the keys of all stretches of weight * value. `d`: where the
// group begins.
template <int M, class T>
inline void WeighTile(const float* weights, const Stretch* stretches, int count, int stride, int d,
                      float* acc, int dp, TileAhead& ahead) {
  F low[M], high[M];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
    low[m] = Load(acc + int64_t{m} * dp + d), high[m] = Load(acc + int64_t{m} * dp + d + kLanes);
  for (int s = 0; s < count; ++s) {
    const T* values = static_cast<const T*>(stretches[s].data) + d;
    const int keys = stretches[s].count;
    int t = 0;
    for (; t + 4 <= keys; t += 4) {
      ahead.Fetch(4 * kGroup * static_cast<int>(sizeof(T)) / 64);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) WeighKey(weights + t + i, values + (t + i) * stride, low, high);
    }
    for (; t < keys; ++t) WeighKey(weights + t, values + t * stride, low, high);
    weights += keys;
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
    Store(acc + int64_t{m} * dp + d, low[m]), Store(acc + int64_t{m} * dp + d + kLanes, high[m]);
}

template <class T>
inline void Weigh(const float* weights, int rows, const Stretch* stretches, int count, int stride, float* acc,
                  int dp, TileAhead& ahead) {
  for (int m = 0; m < rows;) {
    const int take = TakeRows(rows - m, 4);
    const float* p = weights + m * kTileTokens;
    float* out = acc + int64_t{m} * dp;
    for (int d = 0; d < stride; d += kGroup) {
      if (take == 1) WeighTile<1, T>(p, stretches, count, stride, d, out, dp, ahead);
      if (take == 2) WeighTile<2, T>(p, stretches, count, stride, d, out, dp, ahead);
      if (take == 3) WeighTile<3, T>(p, stretches, count, stride, d, out, dp, ahead);
      if (take == 4) WeighTile<4, T>(p, stretches, count, stride, d, out, dp, ahead);
    }
    m += take;
  }
}

// Query rows [first, last) that see the same `count` keys of a tile, given as stretches of keys `stride`
// elements apart.
template <class T>
inline void AttendRows(const AttendPart& a, int first, int last, const Stretch* k, int k_count,
                       const Stretch* v, int v_count, int count, int stride, float* scores,
                       TileAhead& ahead) {
  for (int qi = first; qi < last; qi += kScoreRows) {
    const int rows = last - qi < kScoreRows ? last - qi : kScoreRows;
    float* acc = a.acc + int64_t{qi} * a.dp;
    float* out = scores;
    for (int s = 0; s < k_count; out += k[s++].count) {
      Scores(a.q + int64_t{qi} * a.dp, rows, a.dp, static_cast<const T*>(k[s].data), stride, stride / kGroup,
             k[s].count, out, ahead);
    }
    for (int i = 0; i < rows; ++i) {
      Exponentiate(scores + i * kTileTokens, count, a.scale, acc + int64_t{i} * a.dp, a.dp, a.max + qi + i,
                   a.sum + qi + i);
    }
    Weigh<T>(scores, rows, v, v_count, stride, acc, a.dp, ahead);
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
  // Widening pays when the keys of a tile are met often; it does not change the result.
  const bool widen = a.head_dim % kGroup != 0 || (sizeof(T) == 2 && q_rows >= 2 * kScoreRows);
  TileAhead ahead;
  Stretch k[kTileTokens], v[kTileTokens];

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
      Widen<T>(a, k, FindStretches<T>(a, a.k_blocks, seen_begin, seen_end, k), keys);
      Widen<T>(a, v, FindStretches<T>(a, a.v_blocks, seen_begin, seen_end, v), values);
    }
    // The next tile, if the last row reads on; rows further up stop earlier.
    const int last_end = a.end[a.rows - 1] < a.part_end ? a.end[a.rows - 1] : a.part_end;
    ahead.Start<T>(a, tile_end, last_end - tile_end < kTileTokens ? last_end : tile_end + kTileTokens);

    for (int r = 0; r < a.rows;) {
      const int begin = clip_begin(r), end = clip_end(r);
      int run_end = r + 1;
      while (run_end < a.rows && clip_begin(run_end) == begin && clip_end(run_end) == end) ++run_end;
      const int first = r * a.group, last = run_end * a.group;
      r = run_end;
      if (begin >= end) continue;
      if (widen) {
        k[0] = {keys + int64_t{begin - seen_begin} * a.dp, end - begin};
        v[0] = {values + int64_t{begin - seen_begin} * a.dp, end - begin};
        AttendRows<float>(a, first, last, k, 1, v, 1, end - begin, a.dp, scores, ahead);
      } else {
        const int k_count = FindStretches<T>(a, a.k_blocks, begin, end, k),
                  v_count = FindStretches<T>(a, a.v_blocks, begin, end, v);
        AttendRows<T>(a, first, last, k, k_count, v, v_count, end - begin, a.head_dim, scores, ahead);
      }
    }
  }
  // NaN everywhere must not look like a row that saw no key.
  for (int i = 0; i < q_rows; ++i) {
    if (a.sum[i] != a.sum[i]) a.max[i] = a.sum[i];
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
  table.pack[0] = PackActivations<float>, table.pack[1] = PackActivations<float>,
  table.pack[2] = PackActivations<BF16>;
  table.round_to[0] = RoundArray<float>, table.round_to[1] = RoundArray<F16>,
  table.round_to[2] = RoundArray<BF16>;
  table.matmul[0] = MatmulRange<float>, table.matmul[1] = MatmulRange<F16>,
  table.matmul[2] = MatmulRange<BF16>;
  table.matmul_stream_rows = kStreamRows;
  table.matmul_rows_tile = kDotRows;
  table.attend[0] = Attend<float>, table.attend[1] = Attend<F16>, table.attend[2] = Attend<BF16>;
  table.attend_half[2] = kLanes;
  table.fold = FoldState;
  return table;
}

}  // namespace
}  // namespace lombard::internal::LOMBARD_ISA
