// Many query columns over one span: prefill over paged KV, and prefixes whose readers' queries are stacked.
// Bound by the matrix rate. FlashAttention-2's order of loops: queries outside, keys inside, running maxima
// and sums (Dao 2023).
//
//   S [128 columns, 32 keys] = Q K^T          A: Q by ldmatrix       B: K by ldmatrix
//   O [128 columns, head_dim] += P V          A: P, in registers     B: V by ldmatrix.trans
//
// A block is four warps of 32 columns each: two matrix tiles of rows share what is loaded of K and V, which
// keeps shared memory's rate (128 bytes a cycle and processor) above that of the products. Per 32 keys and
// warp, at head_dim 128: 128 products, 48 ldmatrix, 32 exponentials. Keys come by cp.async into a ring, three
// stages ahead; two blocks share a processor (105 KiB each at head_dim 128), so that one's softmax runs under
// the other's products. Sums are brought to a new maximum only in steps in which one of the warp's rows has
// one; otherwise the factors are all 1.
#include "kernels/cuda/attention_device.cuh"
#include "kernels/cuda/attention_launches.h"
#include "kernels/cuda/attention_tiles.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/reduce.cuh"

namespace lombard {
namespace {

constexpr int kWarps = 4, kThreads = 32 * kWarps, kColumns = kTileColumns, kKeys = 32, kStages = 4;
static_assert(kColumns == kThreads);  // two 16-row tiles for each warp; a thread per column

// The columns' queries, the ring of keys and values, and what each column sees.
constexpr int TileSharedBytes(int head_dim) {
  return (kColumns + kStages * 2 * kKeys) * PaddedRow(head_dim) * 2 +
         kColumns * static_cast<int>(sizeof(KeyRange));
}

// What a warp knows of its columns: of tile m, rows g and g + 8 (lane 4 g + t).
template <int kDim>
struct RowSums {
  float acc[2][kDim / 8][4] = {};                                      // C fragments
  float max[2][2] = {{-INFINITY, -INFINITY}, {-INFINITY, -INFINITY}};  // times log2(e)
  float sum[2][2] = {};                                                // of this lane's keys
};

// S = Q K^T of the warp's 32 rows and 32 keys.
template <class T, int kDim>
LOMBARD_DEVICE void Scores(const T* q_rows, const T* k_tile, float (&s)[2][kKeys / 8][4]) {
  constexpr int kRow = PaddedRow(kDim);
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int k = 0; k < kDim / 16; ++k) {
    uint32_t a[2][4], b[4];
#pragma unroll
    for (int m = 0; m < 2; ++m)
      ptx::LdMatrixX4(a[m], q_rows + (16 * m + lane % 16) * kRow + (2 * k + lane / 16) * 8);
#pragma unroll
    for (int n = 0; n < kKeys / 16; ++n) {
      ptx::LdMatrixX4(b, k_tile + (16 * n + lane / 16 * 8 + lane % 8) * kRow + (2 * k + lane / 8 % 2) * 8);
      const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        ptx::Mma16x8x16<T>(s[m][2 * n], a[m], first);
        ptx::Mma16x8x16<T>(s[m][2 * n + 1], a[m], second);
      }
    }
  }
}

// O += P V, with P = the weights that `s` holds, rounded to T.
template <class T, int kDim>
LOMBARD_DEVICE void AddValues(const float (&s)[2][kKeys / 8][4], const T* v_tile, RowSums<kDim>& sums) {
  constexpr int kRow = PaddedRow(kDim);
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int n = 0; n < kKeys / 16; ++n) {
    uint32_t a[2][4], b[4];
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float* const pair = s[m][2 * n + i / 2] + i % 2 * 2;
        a[m][i] = PackPair<T>(pair[0], pair[1]);
      }
    }
#pragma unroll
    for (int d = 0; d < kDim / 16; ++d) {
      ptx::LdMatrixX4Transposed(b, v_tile + (16 * n + lane % 16) * kRow + (2 * d + lane / 16) * 8);
      const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        ptx::Mma16x8x16<T>(sums.acc[m][2 * d], a[m], first);
        ptx::Mma16x8x16<T>(sums.acc[m][2 * d + 1], a[m], second);
      }
    }
  }
}

// Scores of keys that a row does not see become -inf. seen[16 m + 8 h + g]: what row g + 8 h of tile m sees.
LOMBARD_DEVICE void Mask(float (&s)[2][kKeys / 8][4], int first_key, const KeyRange* seen) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const KeyRange keys = seen[16 * m + 8 * h + g];
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int key = first_key + 8 * n + 2 * t + i;
          if (key < keys.begin || key >= keys.end) s[m][n][2 * h + i] = -INFINITY;
        }
      }
    }
  }
}

// Scores, not yet scaled, become weights, and the sums are brought to the new maxima. One fused product and
// sum and one exponential for each score: the issue of such instructions is the next limit behind the
// products. REQUIRES: scale > 0.
template <int kDim>
LOMBARD_DEVICE void Softmax(float (&s)[2][kKeys / 8][4], float scale, RowSums<kDim>& sums) {
  float correction[2][2];
  bool changed = false;
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float max = -INFINITY;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) max = fmaxf(max, fmaxf(s[m][n][2 * h], s[m][n][2 * h + 1]));
      max = fmaxf(max, __shfl_xor_sync(kFullWarp, max, 1));
      max = fmaxf(max, __shfl_xor_sync(kFullWarp, max, 2));
      max = fmaxf(sums.max[m][h], max * scale);
      const float base = max == -INFINITY ? 0.0f : max;  // no key seen yet: weights 0, not NaN
      correction[m][h] = ptx::Exp2(sums.max[m][h] - base);
      changed |= correction[m][h] != 1.0f;
      float sum = 0;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& score = s[m][n][2 * h + i];
          score = ptx::Exp2(fmaf(score, scale, -base));
          sum += score;
        }
      }
      sums.sum[m][h] = sums.sum[m][h] * correction[m][h] + sum;
      sums.max[m][h] = max;
    }
  }
  if (!__any_sync(kFullWarp, changed)) return;
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int d = 0; d < kDim / 8; ++d) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums.acc[m][d][i] *= correction[m][i / 2];
    }
  }
}

template <class T, int kDim>
__global__ void __launch_bounds__(kThreads, 2) TileAttentionKernel(const AttentionParams<T> p) {
  constexpr int kRow = PaddedRow(kDim), kTile = kKeys * kRow, kPieces = kDim / 8;
  LOMBARD_DYNAMIC_SHARED(T, q_tile);  // [kColumns, kRow]
  T* const ring = q_tile + kColumns * kRow;
  KeyRange* const seen = reinterpret_cast<KeyRange*>(ring + kStages * 2 * kTile);
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const int kv_head = blockIdx.x % p.kv_heads;
  const AttentionWork work = p.work[blockIdx.x / p.kv_heads];
  if (work.rows == 0) return;  // the whole block
  const int columns = work.rows * p.group;
  const int32_t* const rows = p.rows + work.first_row;

  const KeyRange keys = KeysOfPiece(work, p.window);
  int tile = 0, tile_end = 0;
  if (keys.begin < keys.end) {
    tile = (keys.begin - work.first_key) / kKeys;
    tile_end = (keys.end - work.first_key + kKeys - 1) / kKeys;
  }
  const int32_t* const blocks = p.block_table + work.first_block;
  // Unseen keys become zeros: their weights are 0, and 0 times what lies there might be NaN.
  const auto load = [&](int i, int stage) {
    if (i < tile_end) {
      T* const to = ring + stage * 2 * kTile;
#pragma unroll
      for (int half = 0; half < kKeys / 16; ++half) {  // 16 keys lie in one block
        const int first = work.first_key + i * kKeys + 16 * half;
        const bool any = first < keys.end && first + 16 > keys.begin;  // else the table may have no block
        const int64_t from =
            any ? KeyOffset(blocks, first, p.block_tokens, p.kv_heads, kv_head, kDim) : int64_t{0};
#pragma unroll
        for (int round = 0; round < (16 * kPieces + kThreads - 1) / kThreads; ++round) {
          const int piece = round * kThreads + thread;
          if (16 * kPieces % kThreads != 0 && piece >= 16 * kPieces) break;
          const int key = piece / kPieces, at = (16 * half + key) * kRow + piece % kPieces * 8;
          const bool valid = first + key >= keys.begin && first + key < keys.end;
          ptx::CpAsync16(to + at, p.k + from + piece * 8, valid);
          ptx::CpAsync16(to + kTile + at, p.v + from + piece * 8, valid);
        }
      }
    }
    ptx::CpAsyncCommit();
  };
  for (int piece = thread; piece < kColumns * kPieces; piece += kThreads) {
    const int column = piece / kPieces, d = piece % kPieces * 8;
    const bool valid = column < columns;
    const T* from = p.q;
    if (valid) {
      const int head = kv_head * p.group + column % p.group;
      from += rows[column / p.group] * p.q_stride + int64_t{head} * kDim + d;
    }
    ptx::CpAsync16(q_tile + column * kRow + d, from, valid);
  }
#pragma unroll
  for (int stage = 0; stage < kStages - 1; ++stage) load(tile + stage, stage);
  seen[thread] =
      thread < columns ? VisibleKeys(work, p.positions[rows[thread / p.group]], p.window) : KeyRange{};

  RowSums<kDim> sums;
  const float scale = p.scale * kLog2E;
  const bool active = warp * 32 < columns;
  // What every row sees.
  const int all_begin = VisibleKeys(work, work.position_max, p.window).begin;
  const int all_end = VisibleKeys(work, work.position_min, p.window).end;
  for (int stage = 0; tile < tile_end; ++tile) {
    ptx::CpAsyncWait<kStages - 2>();
    __syncthreads();  // the tile is there for all, and all have read the tile before
    load(tile + kStages - 1, stage == 0 ? kStages - 1 : stage - 1);
    const T* const k_tile = ring + stage * 2 * kTile;
    stage = stage == kStages - 1 ? 0 : stage + 1;
    if (!active) continue;
    const int first_key = work.first_key + tile * kKeys;
    const bool masked = first_key < all_begin || first_key + kKeys > all_end;
    float s[2][kKeys / 8][4] = {};
    Scores<T, kDim>(q_tile + warp * 32 * kRow, k_tile, s);
    if (masked) Mask(s, first_key, seen + warp * 32);
    Softmax<kDim>(s, scale, sums);
    AddValues<T, kDim>(s, k_tile + kTile, sums);
  }

#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float sum = sums.sum[m][h];
      sum += __shfl_xor_sync(kFullWarp, sum, 1);
      sum += __shfl_xor_sync(kFullWarp, sum, 2);
      const int column = warp * 32 + 16 * m + 8 * h + lane / 4, t = lane % 4;
      if (column >= columns) continue;
      const int64_t state = (int64_t{work.first_state} + column / p.group) * p.kv_heads * p.group +
                            kv_head * p.group + column % p.group;
#pragma unroll
      for (int d = 0; d < kDim / 8; ++d) {
        *reinterpret_cast<float2*>(p.acc + state * kDim + 8 * d + 2 * t) =
            make_float2(sums.acc[m][d][2 * h], sums.acc[m][d][2 * h + 1]);
      }
      if (t == 0) p.max[state] = sums.max[m][h] * kLn2, p.sum[state] = sum;
    }
  }
}

}  // namespace

GpuError internal::TileAttention(GpuStreamRef stream, const GpuAttentionArgs& args) {
  return ForFastAttention(args.layout, [&]<class T, int kDim>(FastShape<T, kDim>) {
    return LOMBARD_LAUNCH((TileAttentionKernel<T, kDim>), stream,
                          {.grid = AttentionGrid(args, AttentionKernel::kTiles),
                           .block = kThreads,
                           .shared_bytes = TileSharedBytes(kDim)},
                          MakeAttentionParams<T>(args, AttentionKernel::kTiles));
  });
}

}  // namespace lombard
