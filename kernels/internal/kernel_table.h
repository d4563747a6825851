// What an instruction set must provide: one table of functions per set, each built in a file of its own with
// its own compiler flags (kernels_<isa>.cc). The drivers in kernels/*.cc hold shapes, threads and memory; the
// tables hold vector loops.
//
// The files behind the tables include no standard containers and call no inline function of other headers: a
// copy of such a function, compiled for a newer CPU, could be the one the linker keeps for everybody.
#pragma once

#include <cstdint>

#include "kernels/cpu_context.h"

namespace lombard::internal {

// Element types as the vector code sees them; the order of DType. Data may be aligned to 2 bytes only.
struct F16 {
  uint16_t bits;
};
struct BF16 {
  uint16_t bits;
};
inline constexpr int kDTypes = 3;  // indexed by DType: f32, f16, bf16

// y[m, n] for all rows and n in [n_begin, n_end). The sum over k of one output is formed in one order,
// whatever the rows, the range or the blocking: `lanes` interleaved partial sums, k ascending, then a fixed
// tree over the lanes, then bias, then y.
struct MatmulBlock {
  // Packed activations (KernelTable::pack): k is cut into blocks of k_block (a multiple of 64), each block a
  // dense [rows, its length rounded up to 64] matrix with zeros behind k. 64-byte aligned.
  const float* x = nullptr;
  const void* w = nullptr;  // [n, k]
  const float* bias = nullptr;
  float* y = nullptr;
  int64_t y_stride = 0;
  int rows = 0;
  int64_t k = 0, k_block = 0;
  int64_t n_begin = 0, n_end = 0;
  bool accumulate = false;
  float* scratch = nullptr;  // MatmulScratchFloats(...) floats, 64-byte aligned; null when that is 0
};

// The same for bf16 weights as products of bf16 pairs, where the CPU has them.
struct PairsBlock {
  // bf16 (KernelTable::pack_pairs): k is cut into blocks of PairsPackBlock(rows), each a [rows,
  // PairsStride(its length)] matrix with zeros behind k. 64-byte aligned.
  const uint16_t* x = nullptr;
  const uint16_t* w = nullptr;
  const float* bias = nullptr;
  float* y = nullptr;
  int64_t y_stride = 0, rows = 0, k = 0, n_begin = 0, n_end = 0;
  bool accumulate = false;
  uint16_t* scratch = nullptr;  // PairsScratch(rows) elements, 64-byte aligned; null when that is 0
};
// Six rows of x are 24 KiB, half of a first-level cache of 48 KiB, and four of weights 16 KiB; of 32 columns
// of weights, 128 KiB of a second-level cache.
inline constexpr int64_t kPairsBlock = 2048;
// A line behind each row, so that rows do not fall into the same cache sets.
constexpr int64_t PairsStride(int64_t length) { return (length + 31) / 32 * 32 + 32; }
// Columns that few rows meet together, and the unit of what a thread takes.
inline constexpr int64_t kPairsGroup = 24;
// Up to here memory is the limit, not arithmetic: a guess. With more rows the sums are in another order.
inline constexpr int64_t kFewPairsRows = 24;
// Columns that many rows meet together.
inline constexpr int64_t kPairsStrip = 32;
constexpr int64_t PairsScratch(int64_t rows) { return rows > kFewPairsRows ? kPairsStrip * kPairsBlock : 0; }
// From five to eight rows all of them meet few columns at a time, and the cache holds half as many elements
// of each beside the weights that come and those that are fetched.
constexpr int64_t PairsPackBlock(int64_t rows) {
  return 5 <= rows && rows <= 8 ? kPairsBlock / 2 : kPairsBlock;
}

// Queries of one KV head, or of several side by side, over one part of a span. Query rows of one KV head are
// stacked: qi = row * group + head in group. q and acc hold their elements in the order of
// KernelTable::attend_half.
struct AttendPart {
  const float* q = nullptr;  // [heads, rows * group, dp], zeros behind head_dim; for bf16 KV rounded to bf16;
                             // 64-byte aligned
  float scale = 1;
  const int* begin = nullptr;  // [rows]: row r sees the keys [begin[r], end[r]) of the span, clipped to
                               // [part_begin, part_end)
  const int* end = nullptr;
  int rows = 0, group = 0;
  // The whole item has at most kFewAttendRows query rows per KV head; its sums may be in another order.
  bool few = false;
  int head_dim = 0, dp = 0;  // dp: head_dim rounded up to 32
  int block_tokens = 0;
  int64_t head_offset = 0;  // elements from the start of a block to the first KV head
  int heads = 1;            // KV heads; more than one only where KernelTable::attend_heads allows
  int64_t head_stride = 0,
          state_stride = 0;  // from one of them to the next: elements of KV; floats of acc, max, sum
  const void* const* k_blocks = nullptr;
  const void* const* v_blocks = nullptr;
  int part_begin = 0, part_end = 0;
  float* acc = nullptr;  // [rows * group, dp]; the state of this part alone
  float* max = nullptr;
  float* sum = nullptr;
  float* scratch = nullptr;  // AttendScratchFloats(dp, heads, rows * group) floats, 64-byte aligned
};

inline constexpr int kFewAttendRows = 6;  // query rows per KV head of a decode step, mostly
inline constexpr int kTileTokens = 64;    // keys whose scores are exponentiated at once
inline constexpr int kScoreRows =
    12;  // query rows that meet a tile at once; a multiple of every register tile's rows
// Scores of up to kScoreRows rows of every head, a tile of keys and one of values, and what rows need.
constexpr int64_t AttendScratchFloats(int dp, int64_t heads, int64_t q_rows_of_head) {
  return heads * kScoreRows * kTileTokens + int64_t{2} * kTileTokens * dp +
         heads * q_rows_of_head * (dp / 2 + 16 + kTileTokens / 2);
}

struct KernelTable {
  int lanes = 0;  // of a vector of fp32
  void (*rms_norm)(const float* x, const float* weight, float* y, int64_t dim, float eps) = nullptr;
  void (*rotate)(float* x, const float* cos, const float* sin, int64_t half) = nullptr;
  void (*swiglu)(const float* gate, const float* up, float* y, int64_t count) = nullptr;
  void (*exp)(const float* x, float* y, int64_t count) = nullptr;  // relative error: kExpRelativeError
  void (*to_f32[kDTypes])(const void* src, float* dst, int64_t count) = {};
  void (*from_f32[kDTypes])(const float* src, void* dst, int64_t count) = {};
  void (*round_to[kDTypes])(const float* src, float* dst, int64_t count) = {};  // src may be dst

  // x [count], rounded as products with weights of this type want it and in the order of their lanes, then
  // zeros up to a multiple of 64.
  void (*pack[kDTypes])(const float* x, float* packed, int64_t count) = {};
  void (*matmul[kDTypes])(const MatmulBlock& block) = {};
  // Both null where the CPU has no dot products of bf16 pairs. pack_pairs: x [count] to bf16, zeros up to a
  // multiple of 32.
  void (*matmul_pairs)(const PairsBlock& block) = nullptr;
  void (*pack_pairs)(const float* x, int64_t count, uint16_t* packed) = nullptr;
  int matmul_stream_rows =
      0;  // up to so many rows the weights are multiplied as they stream by, without scratch
  int matmul_rows_tile = 0;  // rows of the register tile

  void (*attend[kDTypes])(const AttendPart& part) = {};
  int attend_heads[kDTypes] = {1, 1,
                               1};  // KV heads of a part, at most: where they are read in the order of memory
  // Of each 2 * attend_half elements of a head q and acc hold the even ones, then the odd ones; 0: as they
  // are.
  int attend_half[kDTypes] = {};
  // Folds a later part's state into an earlier one's: dst [dp].
  void (*fold)(const float* acc, float max, float sum, float* dst_acc, float* dst_max, float* dst_sum,
               int dp) = nullptr;
};

// Of exp and everything built on it, for results that are normal numbers; below exp(-87.3) the result is 0.
inline constexpr double kExpRelativeError = 1.2e-7;

inline constexpr int kMatmulColumns =
    64;                                  // outputs per row that one task of the blocked product owns, at most
inline constexpr int kStripColumns = 8;  // weight rows that the blocked product meets at once
constexpr int64_t MatmulScratchFloats(const KernelTable& table, int rows, int64_t k_block) {
  return rows <= table.matmul_stream_rows
             ? 0
             : k_block * kStripColumns + int64_t{rows} * kMatmulColumns * table.lanes;
}

const KernelTable& KernelsFor(Isa isa);  // REQUIRES: this build has it and the CPU too

const KernelTable& BaseKernels();
#if defined(__x86_64__)
const KernelTable& Avx2Kernels();
const KernelTable& Avx512Kernels();
const KernelTable& Avx512Bf16Kernels();
#endif

}  // namespace lombard::internal
