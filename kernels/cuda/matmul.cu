#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/reduce.cuh"

namespace lombard {
namespace {

template <class T>
struct Params {
  const T* x;
  const T* w;
  const float* bias;
  float* y;
  int64_t rows, n, k, x_stride, y_stride;
  bool accumulate;
};

template <class T>
LOMBARD_DEVICE void StoreSum(const Params<T>& p, int64_t row, int64_t column, float sum) {
  float* const y = p.y + row * p.y_stride + column;
  if (p.bias != nullptr) sum += p.bias[column];
  *y = p.accumulate ? *y + sum : sum;
}

// ---- few rows: a warp makes kColumns columns of y, so that a value of x that is loaded serves as many rows
// of W

constexpr int kFewWarps = 4;       // of a block
constexpr int kLoadsInFlight = 4;  // packs of a row of W that a lane has under way; guesses, until measured

template <class T, int kRows, int kColumns, int kUnroll>
LOMBARD_DEVICE void AddPacks(const Params<T>& p, const T* const (&w)[kColumns], int64_t first,
                             float (&sums)[kRows][kColumns]) {
  constexpr int kPack = Pack<T>::kCount;
  Pack<T> weights[kColumns][kUnroll];
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
#pragma unroll
    for (int c = 0; c < kColumns; ++c) weights[c][u] = ptx::LoadPackOnce(w[c] + first + u * 32 * kPack);
  }
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      if (row >= p.rows) break;
      float x[kPack];
      LoadFloats(p.x + row * p.x_stride + first + u * 32 * kPack, x);
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
#pragma unroll
        for (int i = 0; i < kPack; ++i) sums[row][c] += x[i] * ToFloat(weights[c][u].v[i]);
      }
    }
  }
}

template <class T, int kRows, int kColumns>
__global__ void __launch_bounds__(kFewWarps * 32) FewRowsKernel(const Params<T> p, bool packs) {
  const int lane = threadIdx.x % 32;
  const int64_t column = (int64_t{blockIdx.x} * kFewWarps + threadIdx.x / 32) * kColumns;
  if (column >= p.n) return;  // whole warps
  // Behind the last column, the last one again: it is computed and not stored.
  const T* w[kColumns];
#pragma unroll
  for (int c = 0; c < kColumns; ++c) w[c] = p.w + min(column + c, p.n - 1) * p.k;
  float sums[kRows][kColumns] = {};
  if (packs) {
    constexpr int kPack = Pack<T>::kCount, kStep = 32 * kPack;
    int64_t i = lane * kPack;
    for (; i + (kLoadsInFlight - 1) * kStep < p.k; i += kLoadsInFlight * kStep)
      AddPacks<T, kRows, kColumns, kLoadsInFlight>(p, w, i, sums);
    for (; i < p.k; i += kStep) AddPacks<T, kRows, kColumns, 1>(p, w, i, sums);
  } else {
    for (int64_t i = lane; i < p.k; i += 32) {
#pragma unroll
      for (int row = 0; row < kRows; ++row) {
        if (row >= p.rows) break;
        const float x = ToFloat(p.x[row * p.x_stride + i]);
#pragma unroll
        for (int c = 0; c < kColumns; ++c) sums[row][c] += x * ToFloat(w[c][i]);
      }
    }
  }
#pragma unroll
  for (int row = 0; row < kRows; ++row) {
    if (row >= p.rows) break;  // the same for all lanes
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      const float sum = WarpSum(sums[row][c]);
      if (lane == 0 && column + c < p.n) StoreSum(p, row, column + c, sum);
    }
  }
}

// ---- many rows: 64 x 64 of y a block, 4 x 4 a thread, 16 of k at a time through shared memory

constexpr int kTile = 64, kDepth = 16, kTileThreads = 256, kEach = 4;
constexpr int kTileStride = kTile + 4;  // keeps the transposed stores off one bank

// tile [kDepth, kTileStride] = rows first .. first + 63 of `from` [rows, k], columns depth .. depth + 15,
// transposed; zeros outside.
template <class T>
LOMBARD_DEVICE void LoadTile(const T* from, int64_t rows, int64_t stride, int64_t first, int64_t k,
                             int64_t depth, float* tile) {
  for (int i = threadIdx.x; i < kTile * kDepth; i += kTileThreads) {
    const int row = i / kDepth, column = i % kDepth;
    const bool inside = first + row < rows && depth + column < k;
    tile[column * kTileStride + row] = inside ? ToFloat(from[(first + row) * stride + depth + column]) : 0.0f;
  }
}

template <class T>
__global__ void __launch_bounds__(kTileThreads) TiledKernel(const Params<T> p) {
  LOMBARD_SHARED(float, x_tile, kDepth* kTileStride);
  LOMBARD_SHARED(float, w_tile, kDepth* kTileStride);
  const int64_t first_row = int64_t{blockIdx.y} * kTile, first_column = int64_t{blockIdx.x} * kTile;
  const int row = threadIdx.x / 16 * kEach, column = threadIdx.x % 16 * kEach;
  float sums[kEach][kEach] = {};
  for (int64_t depth = 0; depth < p.k; depth += kDepth) {
    LoadTile(p.x, p.rows, p.x_stride, first_row, p.k, depth, x_tile);
    LoadTile(p.w, p.n, p.k, first_column, p.k, depth, w_tile);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kDepth; ++i) {
      float x[kEach], w[kEach];
      LoadFloats(x_tile + i * kTileStride + row, x);
      LoadFloats(w_tile + i * kTileStride + column, w);
#pragma unroll
      for (int r = 0; r < kEach; ++r) {
#pragma unroll
        for (int c = 0; c < kEach; ++c) sums[r][c] += x[r] * w[c];
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int r = 0; r < kEach; ++r) {
#pragma unroll
    for (int c = 0; c < kEach; ++c) {
      if (first_row + row + r < p.rows && first_column + column + c < p.n)
        StoreSum(p, first_row + row + r, first_column + column + c, sums[r][c]);
    }
  }
}

template <int kRows, int kColumns, class T>
GpuError LaunchFewRows(GpuStreamRef stream, const Params<T>& params, bool packs) {
  const int64_t columns = kFewWarps * kColumns;
  return LOMBARD_LAUNCH(
      (FewRowsKernel<T, kRows, kColumns>), stream,
      {.grid = static_cast<unsigned>((params.n + columns - 1) / columns), .block = kFewWarps * 32}, params,
      packs);
}

}  // namespace

GpuError GpuMatmul(GpuStreamRef stream, const GpuMatmulArgs& args) {
  if (args.rows == 0 || args.n == 0) return {};
  return internal::ForType(args.dtype, [&]<class T>(internal::Type<T>) {
    const Params<T> params{static_cast<const T*>(args.x),
                           static_cast<const T*>(args.w),
                           args.bias,
                           args.y,
                           args.rows,
                           args.n,
                           args.k,
                           args.x_stride,
                           args.y_stride,
                           args.accumulate};
    // A row of W begins every k elements.
    const bool packs = internal::PacksOf8(args.x, args.x_stride) && internal::PacksOf8(args.w, args.k);
    if (args.rows == 1) return LaunchFewRows<1, 1>(stream, params, packs);
    if (args.rows <= 4) return LaunchFewRows<4, 2>(stream, params, packs);
    if (args.rows <= kGpuFewRowsMax) return LaunchFewRows<kGpuFewRowsMax, 2>(stream, params, packs);
    const auto tiles = [](int64_t count) { return static_cast<unsigned>((count + kTile - 1) / kTile); };
    return LOMBARD_LAUNCH((TiledKernel<T>), stream,
                          {.grid = dim3(tiles(args.n), tiles(args.rows)), .block = kTileThreads}, params);
  });
}

}  // namespace lombard
