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

// acc[m][n] += x[m, :] . w[n, :] over steps * kLanes elements. PREFETCH: the line `ahead` elements behind
// each weight, too.
template <bool PREFETCH, int M, int N, class T>
inline void DotTile(const float* x, int64_t x_stride, const T* w, int64_t w_stride, int64_t steps,
                    int64_t ahead, F (&acc)[M][N]) {
  constexpr int kLineSteps =
      64 / (kLanes * static_cast<int>(sizeof(T))) > 0 ? 64 / (kLanes * static_cast<int>(sizeof(T))) : 1;
  const auto step = [&](int64_t i) {
    F xs[M];
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) xs[m] = Load(x + m * x_stride + i);
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      const F ws = LoadAs(w + n * w_stride + i);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) acc[m][n] = MulAdd(xs[m], ws, acc[m][n]);
    }
  };
  int64_t i = 0;
  const int64_t end = steps * kLanes;
  if constexpr (PREFETCH) {
    for (; i + kLineSteps * kLanes <= end; i += kLineSteps * kLanes) {
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) Prefetch(w + n * w_stride + i + ahead);
#pragma GCC unroll 4
      for (int line_step = 0; line_step < kLineSteps; ++line_step) step(i + line_step * kLanes);
    }
  }
  for (; i < end; i += kLanes) step(i);
}

template <int M, int N>
inline void Finish(const MatmulBlock& b, int m_begin, int64_t n_begin, int columns, const F (&acc)[M][N]) {
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
    float sums[N];
    if constexpr (N % 4 == 0) {
#pragma GCC unroll 2
      for (int n = 0; n < N; n += 4) Sum4(acc[m][n], acc[m][n + 1], acc[m][n + 2], acc[m][n + 3], sums + n);
    } else {
      for (int n = 0; n < N; ++n) sums[n] = Sum(acc[m][n]);
    }
    float* y = b.y + (m_begin + m) * b.y_stride + n_begin;
    for (int n = 0; n < columns; ++n) {
      float value = sums[n];
      if (b.bias != nullptr) value += b.bias[n_begin + n];
      y[n] = b.accumulate ? value + y[n] : value;
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
    const int64_t stride = RoundUp(length, 64) + kRowPad, steps = length / kLanes, done = steps * kLanes;
    const float* x = x_block + m_begin * stride;
    DotTile<PREFETCH>(x, stride, w + k, b.k, steps, N * b.k, acc);
    if (done < length) {
      T tail[N][kLanes];
      for (int n = 0; n < N; ++n) CopyIn(w + n * b.k + k + done, length - done, tail[n]);
      DotTile<false>(x + done, stride, &tail[0][0], kLanes, 1, 0, acc);
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

// One register tile of the blocked product over one block of k; partial lanes wait in `lanes` between blocks.
template <int M>
void BlockedTile(const MatmulBlock& b, const float* x, int64_t stride, const float* strip, int64_t length,
                 bool first, bool last, int m_begin, int64_t n_begin, int columns, float* lanes) {
  F acc[M][kDotColumns];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
    for (int n = 0; n < kDotColumns; ++n)
      acc[m][n] = first ? Zero() : Load(lanes + (m * kDotColumns + n) * kLanes);
  }
  DotTile<false>(x + m_begin * stride, stride, strip, length, length / kLanes, 0, acc);
  if (last) {
    Finish(b, m_begin, n_begin, columns, acc);
    return;
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
    for (int n = 0; n < kDotColumns; ++n) Store(lanes + (m * kDotColumns + n) * kLanes, acc[m][n]);
  }
}

// Many rows: a strip of 4 weight rows becomes fp32 once per block of k and meets all rows from the
// first-level cache.
template <class T>
void MatmulBlocked(const MatmulBlock& b) {
  float* const strip = b.scratch;
  float* const lanes = b.scratch + b.k_block * 8;
  const float* x = b.x;
  for (int64_t k = 0; k < b.k; k += b.k_block) {
    const int64_t length = b.k - k < b.k_block ? b.k - k : b.k_block, padded = RoundUp(length, 64);
    const bool first = k == 0, last = k + length == b.k;
    for (int64_t n = b.n_begin; n < b.n_end; n += kDotColumns) {
      const int columns = b.n_end - n < kDotColumns ? static_cast<int>(b.n_end - n) : kDotColumns;
      for (int i = 0; i < kDotColumns; ++i) {
        float* row = strip + i * padded;
        const int64_t have = i < columns ? length : 0;
        if (have != 0) ToF32<T>(static_cast<const T*>(b.w) + (n + i) * b.k + k, row, have);
        for (int64_t j = have; j < padded; ++j) row[j] = 0;
      }
      float* group = lanes + (n - b.n_begin) * b.rows * kLanes;
      for (int m = 0; m < b.rows;) {
        const int take = TakeRows(b.rows - m, kDotRows);
        float* tile = group + m * kDotColumns * kLanes;
        const auto run = [&]<int M>() {
          BlockedTile<M>(b, x, padded + kRowPad, strip, padded, first, last, m, n, columns, tile);
        };
        if (take == 1) run.template operator()<1>();
        if (take == 2) run.template operator()<2>();
        if (take == 3) run.template operator()<3>();
        if constexpr (kDotRows > 3) {
          if (take == 4) run.template operator()<4>();
          if (take == 5) run.template operator()<5>();
          if (take == 6) run.template operator()<6>();
        }
        m += take;
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
