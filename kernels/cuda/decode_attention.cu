// Few query columns over many keys: what counts is that K and V come from memory at its full rate.
//
// Per 16 bytes of K or V (8 elements), the 8 columns of a group need 64 multiply-adds. At 4.5 TB/s that is 36
// tera multiply-adds a second, more than the 33 of an H200's fp32 units: so the products are done by tensor
// cores, where they are a twentieth of the rate, though half of a group of 4 is padding. With keys as rows
// (A) and queries as columns (B) nothing else is padded:
//
//   S^T [16 keys, 8 columns] = K Q^T          A: K by ldmatrix        B: Q, in registers for good
//   O^T [head_dim, 8 columns] += V^T P^T      A: V by ldmatrix.trans  B: P = exp(S), transposed in registers
//
// A block is four warps; each has its own ring of stages in shared memory, filled by cp.async two tiles ahead
// (tiles 16 keys long; 16 KiB at head_dim 128 for each of the 8 warps of a processor, where some 40 KiB a
// processor in flight hide the memory's latency), so no warp waits for another before the end. Tile i of the
// part is warp i % 4's, whatever the window, so a row's bits depend on its own position alone.
#include "kernels/cuda/attention_device.cuh"
#include "kernels/cuda/attention_launches.h"
#include "kernels/cuda/attention_tiles.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/reduce.cuh"

namespace lombard {
namespace {

constexpr int kWarps = 4, kKeys = 16, kStages = 3, kColumns = kDecodeColumns;

constexpr int DecodeSharedBytes(int head_dim) {
  return kWarps * kStages * 2 * kKeys * PaddedRow(head_dim) * 2;
}

// What a warp knows of its columns after its keys; lane 4 g + t.
template <int kDim>
struct ColumnSums {
  float acc[kDim / 16][4] = {};           // C fragments of O^T: dimensions 16 i + g (+ 8), columns 2t, 2t+1
  float max[2] = {-INFINITY, -INFINITY};  // of columns 2t, 2t+1; times log2(e)
  float sum[2] = {};                      // of this lane's keys
};

// Scores of 16 keys become weights, and the sums are brought to the new maxima. seen[i]: the keys that column
// 2t + i sees.
template <int kDim>
LOMBARD_DEVICE void Softmax(float (&s)[4], int first_key, const KeyRange (&seen)[2], float scale,
                            ColumnSums<kDim>& sums) {
  const int low = first_key + threadIdx.x % 32 / 4, high = low + 8;
  float correction[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    s[i] = low >= seen[i].begin && low < seen[i].end ? s[i] * scale : -INFINITY;
    s[2 + i] = high >= seen[i].begin && high < seen[i].end ? s[2 + i] * scale : -INFINITY;
    float max = fmaxf(s[i], s[2 + i]);
#pragma unroll
    for (int step = 4; step < 32; step *= 2) max = fmaxf(max, __shfl_xor_sync(kFullWarp, max, step));
    max = fmaxf(max, sums.max[i]);
    const float base = max == -INFINITY ? 0.0f : max;  // no key seen yet: weights 0, not NaN
    correction[i] = ptx::Exp2(sums.max[i] - base);
    s[i] = ptx::Exp2(s[i] - base), s[2 + i] = ptx::Exp2(s[2 + i] - base);
    sums.sum[i] = sums.sum[i] * correction[i] + (s[i] + s[2 + i]);
    sums.max[i] = max;
  }
#pragma unroll
  for (int d = 0; d < kDim / 16; ++d) {
#pragma unroll
    for (int i = 0; i < 4; ++i) sums.acc[d][i] *= correction[i % 2];
  }
}

template <class T, int kDim>
__global__ void __launch_bounds__(32 * kWarps) DecodeAttentionKernel(const AttentionParams<T> p) {
  constexpr int kRow = PaddedRow(kDim), kTile = kKeys * kRow, kPieces = kDim / 8;
  LOMBARD_DYNAMIC_SHARED(T, shared);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  const int column_tiles = (p.group + kColumns - 1) / kColumns;
  const int first_column = blockIdx.x % column_tiles * kColumns, unit = blockIdx.x / column_tiles;
  const int kv_head = unit % p.kv_heads;
  const AttentionWork work = p.work[unit / p.kv_heads];
  const int columns = min(kColumns, work.rows * p.group - first_column);
  if (columns <= 0) return;  // the whole block

  const KeyRange keys = KeysOfPiece(work, p.window);
  int tile = 0, tile_end = 0;
  if (keys.begin < keys.end) {
    tile = (keys.begin - work.first_key) / kKeys;
    tile += (warp - tile) & (kWarps - 1);
    tile_end = (keys.end - work.first_key + kKeys - 1) / kKeys;
  }
  T* const ring = shared + warp * kStages * 2 * kTile;
  const int32_t* const blocks = p.block_table + work.first_block;
  // Unseen keys become zeros: their weights are 0, and 0 times what lies there might be NaN.
  const auto load = [&](int i, int stage) {
    if (i < tile_end) {
      const int first = work.first_key + i * kKeys;
      const int64_t from = KeyOffset(blocks, first, p.block_tokens, p.kv_heads, kv_head, kDim) + lane * 8;
#pragma unroll
      for (int round = 0; round < kKeys * kPieces / 32; ++round) {
        const int piece = round * 32 + lane, key = piece / kPieces;
        T* const to = ring + stage * 2 * kTile + key * kRow + piece % kPieces * 8;
        const bool valid = first + key >= keys.begin && first + key < keys.end;
        ptx::CpAsync16(to, p.k + from + round * 256, valid);
        ptx::CpAsync16(to + kTile, p.v + from + round * 256, valid);
      }
    }
    ptx::CpAsyncCommit();
  };
#pragma unroll
  for (int stage = 0; stage < kStages - 1; ++stage) load(tile + stage * kWarps, stage);

  // Column c: its row, and its head in the group.
  const auto row_of = [&](int c) { return p.rows[work.first_row + (first_column + c) / p.group]; };
  const auto head_of = [&](int c) { return kv_head * p.group + (first_column + c) % p.group; };
  uint32_t q[kDim / 16][2] = {};  // B fragments: column g
  if (g < columns) {
    const T* const from = p.q + row_of(g) * p.q_stride + int64_t{head_of(g)} * kDim + 2 * t;
#pragma unroll
    for (int k = 0; k < kDim / 16; ++k) {
      q[k][0] = *reinterpret_cast<const uint32_t*>(from + 16 * k);
      q[k][1] = *reinterpret_cast<const uint32_t*>(from + 16 * k + 8);
    }
  }
  KeyRange seen[2] = {};
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (2 * t + i < columns) seen[i] = VisibleKeys(work, p.positions[row_of(2 * t + i)], p.window);
  }

  ColumnSums<kDim> sums;
  const float scale = p.scale * kLog2E;
  for (int stage = 0; tile < tile_end; tile += kWarps) {
    ptx::CpAsyncWait<kStages - 2>();
    __syncwarp();  // the tile is there for all lanes, and all have read the tile before
    load(tile + (kStages - 1) * kWarps, stage == 0 ? kStages - 1 : stage - 1);
    const T *const k_tile = ring + stage * 2 * kTile, *const v_tile = k_tile + kTile;
    stage = stage == kStages - 1 ? 0 : stage + 1;

    float s[4] = {};
    uint32_t a[4];
#pragma unroll
    for (int k = 0; k < kDim / 16; ++k) {
      ptx::LdMatrixX4(a, k_tile + lane % 16 * kRow + (2 * k + lane / 16) * 8);
      ptx::Mma16x8x16<T>(s, a, q[k]);
    }
    Softmax(s, work.first_key + tile * kKeys, seen, scale, sums);
    const uint32_t weights[2] = {ptx::TransposeMatrix(PackPair<T>(s[0], s[1])),
                                 ptx::TransposeMatrix(PackPair<T>(s[2], s[3]))};
#pragma unroll
    for (int d = 0; d < kDim / 16; ++d) {
      ptx::LdMatrixX4Transposed(a, v_tile + (lane / 16 * 8 + lane % 8) * kRow + (2 * d + lane / 8 % 2) * 8);
      ptx::Mma16x8x16<T>(sums.acc[d], a, weights);
    }
  }

  // The four warps' sums become one, through the memory of the rings.
  constexpr int kSumsRow = kDim + 4;                      // keeps columns in different banks
  float* const acc = reinterpret_cast<float*>(shared);    // [kWarps, kColumns, kSumsRow]
  float* const max = acc + kWarps * kColumns * kSumsRow;  // [kWarps, kColumns]
  float* const sum = max + kWarps * kColumns;
  static_assert((kWarps * kColumns * (kSumsRow + 2)) * 4 <= DecodeSharedBytes(kDim));
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float total = sums.sum[i];
#pragma unroll
    for (int step = 4; step < 32; step *= 2) total += __shfl_xor_sync(kFullWarp, total, step);
    const int at = warp * kColumns + 2 * t + i;
    if (g == 0) max[at] = sums.max[i], sum[at] = total;
#pragma unroll
    for (int d = 0; d < kDim / 16; ++d) {
      acc[at * kSumsRow + 16 * d + g] = sums.acc[d][i];
      acc[at * kSumsRow + 16 * d + 8 + g] = sums.acc[d][2 + i];
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < columns * kDim; i += 32 * kWarps) {
    const int column = i / kDim, d = i % kDim;
    float largest = max[column];
#pragma unroll
    for (int w = 1; w < kWarps; ++w) largest = fmaxf(largest, max[w * kColumns + column]);
    const float base = largest == -INFINITY ? 0.0f : largest;
    float acc_all = 0, sum_all = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const int at = w * kColumns + column;
      const float weight = ptx::Exp2(max[at] - base);
      acc_all += acc[at * kSumsRow + d] * weight, sum_all += sum[at] * weight;
    }
    const int64_t state =
        (int64_t{work.first_state} + (first_column + column) / p.group) * p.kv_heads * p.group +
        head_of(column);
    p.acc[state * kDim + d] = acc_all;
    if (d == 0) p.max[state] = largest * kLn2, p.sum[state] = sum_all;
  }
}

template <class T, int kDim>
GpuError LaunchDecode(GpuStreamRef stream, const GpuAttentionArgs& args) {
  const AttentionParams<T> params = MakeAttentionParams<T>(args, AttentionKernel::kDecode);
  const unsigned column_tiles = (params.group + kColumns - 1) / kColumns;
  return LOMBARD_LAUNCH((DecodeAttentionKernel<T, kDim>), stream,
                        {.grid = AttentionGrid(args, AttentionKernel::kDecode) * column_tiles,
                         .block = 32 * kWarps,
                         .shared_bytes = DecodeSharedBytes(kDim)},
                        params);
}

}  // namespace

GpuError internal::DecodeAttention(GpuStreamRef stream, const GpuAttentionArgs& args) {
  return ForFastAttention(args.layout, [&]<class T, int kDim>(FastShape<T, kDim>) {
    return LaunchDecode<T, kDim>(stream, args);
  });
}

}  // namespace lombard
