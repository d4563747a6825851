// Matrix product: register tiles of dot products, lanes along k. Included once per instruction set after its
// vectors.
//
// Why lanes along k and not along n: weights are used in place, row-major [n, k], and one row of activations
// (decode) must run at the speed of memory. The same order for every number of rows then costs nothing, and
// results do not depend on the batch.
#pragma once

#include "kernels/internal/elementwise-inl.h"

namespace lombard::internal::LOMBARD_ISA {
namespace {

constexpr int kDotColumns = 4;
constexpr int64_t kRowPad =
    16;  // floats behind each packed row, so that rows do not fall into the same cache sets

inline int64_t RoundUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

// How many of `left` rows the next register tile takes: full tiles, the last two balanced.
inline int TakeRows(int left, int tile) {
  return left <= tile ? left : left < 2 * tile ? (left + 1) / 2 : tile;
}

// acc[m][n] += x[m, :] . w[n, :] over `groups` times kGroup elements, x in the order of LoadHalf. AHEAD > 0:
// the line so many bytes behind each weight is fetched, too.
template <int AHEAD, int M, int N, class T>
inline void DotTile(const float* x, int64_t x_stride, const T* w, int64_t w_stride, int64_t groups,
                    F (&acc)[M][N]) {
  const auto half = [&]<int HALF>(int64_t i) {
    if constexpr (M > N) {  // few columns wait in registers while the rows pass by
      F ws[N];
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) ws[n] = LoadHalf<HALF>(w + n * w_stride + i);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
        F xs = Load(x + m * x_stride + i + HALF * kLanes);
        Keep(xs);
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) acc[m][n] = MulAdd(xs, ws[n], acc[m][n]);
      }
      return;
    }
    F xs[M];
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) xs[m] = Load(x + m * x_stride + i + HALF * kLanes);
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      const F ws = LoadHalf<HALF>(w + n * w_stride + i);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) acc[m][n] = MulAdd(xs[m], ws, acc[m][n]);
    }
  };
  int64_t i = 0;
  const int64_t end = groups * kGroup;
  if constexpr (AHEAD > 0) {
    constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(T));  // elements
    constexpr int64_t kStep = kLine > kGroup ? kLine : kGroup;
    for (; i + kStep <= end; i += kStep) {
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) {
        const char* ahead = reinterpret_cast<const char*>(w + n * w_stride + i) + AHEAD;
        for (int64_t line = 0; line < kStep; line += kLine) Prefetch(ahead + line * sizeof(T));
      }
#pragma GCC unroll 4
      for (int64_t group = 0; group < kStep; group += kGroup) {
        half.template operator()<0>(i + group);
        half.template operator()<1>(i + group);
      }
    }
  }
  if constexpr (sizeof(T) ==
                sizeof(float)) {  // halves follow each other: the shorter loop is faster (by 8 % on Zen 3)
#pragma GCC unroll 2
    for (; i < end; i += kLanes) half.template operator()<0>(i);
  } else {
    for (; i < end; i += kGroup) {
      half.template operator()<0>(i);
      half.template operator()<1>(i);
    }
  }
}

inline void FinishOne(const MatmulBlock& b, int64_t n, float sum, float* y) {
  if (b.bias != nullptr) sum += b.bias[n];
  *y = b.accumulate ? sum + *y : sum;
}

// Sums of lanes, bias, old value, in this order. Outputs `n_step` apart, those below `columns` only.
template <int M, int N>
inline void Finish(const MatmulBlock& b, int m_begin, int64_t n_begin, int64_t n_step, int columns,
                   const F (&acc)[M][N]) {
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
    float* y = b.y + (m_begin + m) * b.y_stride + n_begin;
    if constexpr (N == 4) {
      Quad sums = Sum4(acc[m][0], acc[m][1], acc[m][2], acc[m][3]);
      if (columns == N && n_step == 1) {
        if (b.bias != nullptr) sums = AddQuad(sums, LoadQuad(b.bias + n_begin));
        if (b.accumulate) sums = AddQuad(sums, LoadQuad(y));
        StoreQuad(y, sums);
      } else {
        float values[4];
        StoreQuad(values, sums);
        for (int n = 0; n < columns; ++n) FinishOne(b, n_begin + n * n_step, values[n], y + n * n_step);
      }
    } else {
      for (int n = 0; n < N; ++n) FinishOne(b, n_begin + n, Sum(acc[m][n]), y + n);
    }
  }
}

constexpr int kStreamRows = 2;
// The prefetch distance of a stream, and four streams at once: of what was tried, the nearest to the speed of
// reading alone (97 % on Zen 3; neighbouring rows as streams, all in the same cache sets: 70 %).
constexpr int kStreamAhead = 512;

// One output of each of N streams, the outputs `step` apart.
template <int M, int N, class T>
inline void StreamTile(const MatmulBlock& b, int64_t n_begin, int64_t step) {
  F acc[M][N];
  for (int m = 0; m < M; ++m) {
    for (int n = 0; n < N; ++n) acc[m][n] = Zero();
  }
  const T* w = static_cast<const T*>(b.w) + n_begin * b.k;
  const float* x = b.x;
  for (int64_t k = 0; k < b.k; k += b.k_block) {
    const int64_t length = b.k - k < b.k_block ? b.k - k : b.k_block;
    const int64_t stride = RoundUp(length, 64) + kRowPad, groups = length / kGroup, done = groups * kGroup;
    DotTile<kStreamAhead>(x, stride, w + k, step * b.k, groups, acc);
    if (done < length) {
      T tail[N][kGroup] = {};
      for (int n = 0; n < N; ++n)
        __builtin_memcpy(tail[n], w + n * step * b.k + k + done, (length - done) * sizeof(T));
      DotTile<0>(x + done, stride, &tail[0][0], kGroup, 1, acc);
    }
    x += b.rows * stride;
  }
  Finish(b, 0, n_begin, step, N, acc);
}

// One or two rows: the weights stream by once, in place, at the speed of memory.
template <int M, class T>
void MatmulStreams(const MatmulBlock& b) {
  const int64_t step = (b.n_end - b.n_begin) / kDotColumns;
  for (int64_t n = b.n_begin; n < b.n_begin + step; ++n) StreamTile<M, kDotColumns, T>(b, n, step);
  for (int64_t n = b.n_begin + kDotColumns * step; n < b.n_end; ++n) StreamTile<M, 1, T>(b, n, 0);
}

// The weights that come next, fetched a few lines at a time between register tiles: in one burst they would
// stall the loads.
struct Ahead {
  const char* row = nullptr;
  int64_t row_bytes = 0, next_row = 0,
          at = 0;  // bytes fetched of each row; from one row to the next; fetched of this one
  int rows = 0;

  inline void Fetch(int lines) {
    for (; lines > 0 && rows > 0; --lines) {
      PrefetchSecondLevel(row + at);
      at += 64;
      if (at >= row_bytes) at = 0, row += next_row, --rows;
    }
  }
};

// Over one block of k, M rows of x and the columns of a strip, N at a time; partial lanes wait in `lanes`
// between blocks.
template <int M, int N, class W>
inline void StripTile(const MatmulBlock& b, const float* x, int64_t x_stride, const W* w, int64_t w_stride,
                      int64_t groups, bool first, bool last, int m, int64_t n_begin, int columns,
                      float* lanes, Ahead& ahead, int lines) {
  int n = 0;
  for (; n < columns; n += N, w += N * w_stride) {
    if constexpr (kStripColumns % N != 0) {
      if (columns - n < N) break;
    }
    float* tile_lanes = lanes + (int64_t{n} * b.rows + m * N) * kLanes;
    F acc[M][N];
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j) acc[i][j] = first ? Zero() : Load(tile_lanes + (i * N + j) * kLanes);
    }
    ahead.Fetch(lines * N / kStripColumns + 1);
    DotTile<0>(x, x_stride, w, w_stride, groups, acc);
    if (last) {
      Finish(b, m, n_begin + n, 1, columns - n < N ? columns - n : N, acc);
      continue;
    }
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j) Store(tile_lanes + (i * N + j) * kLanes, acc[i][j]);
    }
  }
  if constexpr (kStripColumns % N != 0) {
    StripTile<M, kStripColumns % N>(b, x, x_stride, w, w_stride, groups, first, last, m, n_begin + n,
                                    columns - n, lanes + int64_t{n} * b.rows * kLanes, ahead, lines);
  }
}

// All rows of x over one block of k and one strip of weights, in register tiles of up to ROWS x N.
template <int ROWS, int N, class W>
inline void StripRows(const MatmulBlock& b, const float* x, int64_t x_stride, const W* w, int64_t w_stride,
                      int64_t groups, bool first, bool last, int64_t n_begin, int columns, float* lanes,
                      Ahead& ahead, int lines) {
  for (int m = 0; m < b.rows;) {
    const int take = TakeRows(b.rows - m, ROWS);
    const auto run = [&]<int M>() {
      StripTile<M, N>(b, x + m * x_stride, x_stride, w, w_stride, groups, first, last, m, n_begin, columns,
                      lanes, ahead, lines * M);
    };
    if (take == 1) run.template operator()<1>();
    if (take == 2) run.template operator()<2>();
    if (take == 3) run.template operator()<3>();
    if constexpr (ROWS > 3) {
      if (take == 4) run.template operator()<4>();
    }
    if constexpr (ROWS > 4) {
      if (take == 5) run.template operator()<5>();
      if (take == 6) run.template operator()<6>();
    }
    m += take;
  }
}

constexpr int kInPlaceRows = 8;

// Weights pass in strips of 8 rows and one block of k, which stay in the first-level cache while the rows of
// x pass by. For many rows of x a strip becomes fp32 once; few meet it in place, and then x is what stays.
template <class T>
void MatmulBlocked(const MatmulBlock& b) {
  float* const strip = b.scratch;
  float* const lanes = b.scratch + b.k_block * kStripColumns;
  const float* x = b.x;
  const T* const w = static_cast<const T*>(b.w);
  const bool in_place = b.rows <= kInPlaceRows && b.k % kGroup == 0;
  for (int64_t k = 0; k < b.k; k += b.k_block) {
    const int64_t length = b.k - k < b.k_block ? b.k - k : b.k_block, padded = RoundUp(length, 64);
    const bool first = k == 0, last = k + length == b.k;
    for (int64_t n = b.n_begin; n < b.n_end; n += kStripColumns) {
      const int columns = b.n_end - n < kStripColumns ? static_cast<int>(b.n_end - n) : kStripColumns;
      const bool strips_end = n + kStripColumns >= b.n_end;
      const T* next = strips_end ? w + b.n_begin * b.k + k + length : w + (n + kStripColumns) * b.k + k;
      Ahead ahead{reinterpret_cast<const char*>(next), length * static_cast<int64_t>(sizeof(T)),
                  b.k * static_cast<int64_t>(sizeof(T)), 0, strips_end && last ? 0 : kStripColumns};
      const int lines =
          static_cast<int>(kStripColumns * (length * static_cast<int64_t>(sizeof(T)) / 64 + 1)) / b.rows +
          1;  // for each row of x
      float* strip_lanes = lanes + (n - b.n_begin) * b.rows * kLanes;
      if (in_place && columns == kStripColumns) {  // the same in all blocks of k: lanes wait in its order
        StripRows<kFewRows, kFewColumns>(b, x, padded + kRowPad, w + n * b.k + k, b.k, length / kGroup, first,
                                         last, n, columns, strip_lanes, ahead, lines);
        continue;
      }
      for (int i = 0; i < kStripColumns; ++i) {
        float* row = strip + i * padded;
        const int64_t have = i < columns ? length : 0;
        if (have != 0) WidenHalves<T>(w + (n + i) * b.k + k, row, have);
        for (int64_t j = RoundUp(have, kGroup); j < padded; ++j) row[j] = 0;
      }
      StripRows<kDotRows, kDotColumns>(b, x, padded + kRowPad, strip, padded, padded / kGroup, first, last, n,
                                       columns, strip_lanes, ahead, lines);
    }
    x += b.rows * (padded + kRowPad);
  }
}

template <class T>
void MatmulRange(const MatmulBlock& b) {
  if (b.rows == 1) {
    MatmulStreams<1, T>(b);
  } else if (b.rows == kStreamRows) {
    MatmulStreams<2, T>(b);
  } else {
    MatmulBlocked<T>(b);
  }
}

}  // namespace
}  // namespace lombard::internal::LOMBARD_ISA
