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

// acc[m][n] += x[m, :] . w[n, :] over `groups` times kGroup elements, x in the order of LoadHalf. PREFETCH:
// the line `ahead` elements behind each weight, too.
template <bool PREFETCH, int M, int N, class T>
inline void DotTile(const float* x, int64_t x_stride, const T* w, int64_t w_stride, int64_t groups,
                    int64_t ahead, F (&acc)[M][N]) {
  constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(T));  // elements
  const auto half = [&]<int HALF>(int64_t i) {
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
  if constexpr (PREFETCH) {
    constexpr int64_t kStep = kLine > kGroup ? kLine : kGroup;
    for (; i + kStep <= end; i += kStep) {
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) {
        for (int64_t line = 0; line < kStep; line += kLine) Prefetch(w + n * w_stride + i + line + ahead);
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

// Sums of lanes, bias, old value, in this order.
template <int M, int N>
inline void Finish(const MatmulBlock& b, int m_begin, int64_t n_begin, int columns, const F (&acc)[M][N]) {
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
    float* y = b.y + (m_begin + m) * b.y_stride + n_begin;
    if constexpr (N % 4 == 0) {
#pragma GCC unroll 2
      for (int n = 0; n < N; n += 4) {
        Quad sums = Sum4(acc[m][n], acc[m][n + 1], acc[m][n + 2], acc[m][n + 3]);
        if (columns == N) {
          if (b.bias != nullptr) sums = AddQuad(sums, LoadQuad(b.bias + n_begin + n));
          if (b.accumulate) sums = AddQuad(sums, LoadQuad(y + n));
          StoreQuad(y + n, sums);
        } else {
          float values[4];
          StoreQuad(values, sums);
          for (int i = 0; i < columns - n; ++i) FinishOne(b, n_begin + n + i, values[i], y + n + i);
        }
      }
    } else {
      for (int n = 0; n < N; ++n) FinishOne(b, n_begin + n, Sum(acc[m][n]), y + n);
    }
  }
}

template <bool PREFETCH, int M, int N, class T>
void DirectTile(const MatmulBlock& b, int m_begin, int64_t n_begin) {
  F acc[M][N];
  for (int m = 0; m < M; ++m) {
    for (int n = 0; n < N; ++n) acc[m][n] = Zero();
  }
  const T* w = static_cast<const T*>(b.w) + n_begin * b.k;
  const float* x_block = b.x;
  for (int64_t k = 0; k < b.k; k += b.k_block) {
    const int64_t length = b.k - k < b.k_block ? b.k - k : b.k_block;
    const int64_t stride = RoundUp(length, 64) + kRowPad, groups = length / kGroup, done = groups * kGroup;
    const float* x = x_block + m_begin * stride;
    DotTile<PREFETCH>(x, stride, w + k, b.k, groups, N * b.k, acc);
    if (done < length) {
      T tail[N][kGroup] = {};
      for (int n = 0; n < N; ++n)
        __builtin_memcpy(tail[n], w + n * b.k + k + done, (length - done) * sizeof(T));
      DotTile<false>(x + done, stride, &tail[0][0], kGroup, 1, 0, acc);
    }
    x_block += b.rows * stride;
  }
  Finish(b, m_begin, n_begin, N, acc);
}

template <int N, class T>
void DirectColumns(const MatmulBlock& b, int64_t n) {
  for (int m = 0; m < b.rows;) {
    const int take = TakeRows(b.rows - m, kDotRows);
    // Only the first pass over these weights meets memory.
    if (m == 0) {
      if (take == 1) DirectTile<true, 1, N, T>(b, m, n);
      if (take == 2) DirectTile<true, 2, N, T>(b, m, n);
      if (take == 3) DirectTile<true, 3, N, T>(b, m, n);
      if constexpr (kDotRows > 3) {
        if (take == 4) DirectTile<true, 4, N, T>(b, m, n);
        if (take == 5) DirectTile<true, 5, N, T>(b, m, n);
        if (take == 6) DirectTile<true, 6, N, T>(b, m, n);
      }
    } else {
      if (take == 1) DirectTile<false, 1, N, T>(b, m, n);
      if (take == 2) DirectTile<false, 2, N, T>(b, m, n);
      if (take == 3) DirectTile<false, 3, N, T>(b, m, n);
      if constexpr (kDotRows > 3) {
        if (take == 4) DirectTile<false, 4, N, T>(b, m, n);
        if (take == 5) DirectTile<false, 5, N, T>(b, m, n);
        if (take == 6) DirectTile<false, 6, N, T>(b, m, n);
      }
    }
    m += take;
  }
}

// Few rows: the weights stream by once, in place.
template <class T>
void MatmulDirect(const MatmulBlock& b) {
  int64_t n = b.n_begin;
  if (b.rows == 1) {
    for (; n + 8 <= b.n_end; n += 8) DirectTile<true, 1, 8, T>(b, 0, n);
  }
  for (; n + kDotColumns <= b.n_end; n += kDotColumns) DirectColumns<kDotColumns, T>(b, n);
  for (; n < b.n_end; ++n) DirectColumns<1, T>(b, n);
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
      Prefetch(row + at);
      at += 64;
      if (at >= row_bytes) at = 0, row += next_row, --rows;
    }
  }
};

// `count` register tiles of M rows below each other, over one block of k; partial lanes wait in `lanes`
// between blocks.
template <int M>
void BlockedTiles(const MatmulBlock& b, const float* x, const float* strip, int64_t padded, bool first,
                  bool last, int m_begin, int count, int64_t n_begin, int columns, float* lanes, Ahead& ahead,
                  int lines) {
  const int64_t x_stride = padded + kRowPad;
  for (int m = m_begin; m < m_begin + count * M; m += M) {
    float* tile_lanes = lanes + m * kDotColumns * kLanes;
    F acc[M][kDotColumns];
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
#pragma GCC unroll 8
      for (int n = 0; n < kDotColumns; ++n)
        acc[i][n] = first ? Zero() : Load(tile_lanes + (i * kDotColumns + n) * kLanes);
    }
    ahead.Fetch(lines);
    DotTile<false>(x + m * x_stride, x_stride, strip, padded, padded / kGroup, 0, acc);
    if (last) {
      Finish(b, m, n_begin, columns, acc);
      continue;
    }
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
#pragma GCC unroll 8
      for (int n = 0; n < kDotColumns; ++n) Store(tile_lanes + (i * kDotColumns + n) * kLanes, acc[i][n]);
    }
  }
}

// Many rows: a strip of 4 weight rows becomes fp32 once per block of k and stays in the first-level cache
// while the rows pass by from the second.
template <class T>
void MatmulBlocked(const MatmulBlock& b) {
  float* const strip = b.scratch;
  float* const lanes = b.scratch + b.k_block * kDotColumns;
  const float* x = b.x;
  const T* const w = static_cast<const T*>(b.w);
  for (int64_t k = 0; k < b.k; k += b.k_block) {
    const int64_t length = b.k - k < b.k_block ? b.k - k : b.k_block, padded = RoundUp(length, 64);
    const bool first = k == 0, last = k + length == b.k;
    for (int64_t n = b.n_begin; n < b.n_end; n += kDotColumns) {
      const int columns = b.n_end - n < kDotColumns ? static_cast<int>(b.n_end - n) : kDotColumns;
      for (int i = 0; i < kDotColumns; ++i) {
        float* row = strip + i * padded;
        const int64_t have = i < columns ? length : 0;
        if (have != 0) WidenHalves<T>(w + (n + i) * b.k + k, row, have);
        for (int64_t j = RoundUp(have, kGroup); j < padded; ++j) row[j] = 0;
      }
      const bool columns_end = n + kDotColumns >= b.n_end;
      const T* next = columns_end ? w + b.n_begin * b.k + k + length : w + (n + kDotColumns) * b.k + k;
      Ahead ahead{reinterpret_cast<const char*>(next), length * static_cast<int64_t>(sizeof(T)),
                  b.k * static_cast<int64_t>(sizeof(T)), 0, columns_end && last ? 0 : kDotColumns};
      const int tiles = (b.rows + kDotRows - 1) / kDotRows;
      const int lines =
          static_cast<int>(kDotColumns * (length * static_cast<int64_t>(sizeof(T)) / 64 + 1)) / tiles + 1;
      float* group = lanes + (n - b.n_begin) * b.rows * kLanes;
      for (int m = 0; m < b.rows;) {
        const int take = TakeRows(b.rows - m, kDotRows);
        int count = 1;
        while (TakeRows(b.rows - m - count * take, kDotRows) == take) ++count;
        const auto run = [&]<int M>() {
          BlockedTiles<M>(b, x, strip, padded, first, last, m, count, n, columns, group, ahead, lines);
        };
        if (take == 1) run.template operator()<1>();
        if (take == 2) run.template operator()<2>();
        if (take == 3) run.template operator()<3>();
        if constexpr (kDotRows > 3) {
          if (take == 4) run.template operator()<4>();
          if (take == 5) run.template operator()<5>();
          if (take == 6) run.template operator()<6>();
        }
        m += take * count;
      }
    }
    x += b.rows * (padded + kRowPad);
  }
}

constexpr int kDirectRows = 8;

template <class T>
void MatmulRange(const MatmulBlock& b) {
  if (b.rows <= kDirectRows) {
    MatmulDirect<T>(b);
  } else {
    MatmulBlocked<T>(b);
  }
}

}  // namespace
}  // namespace lombard::internal::LOMBARD_ISA
