// How a step's attention is cut into pieces of work for a GPU: arithmetic that the host plans with and the
// kernels rely on. Plain C++.
//
// A span's keys are cut into parts, and each part's states are merged in order of position. Where the cuts
// lie is a function of the span's length and of the kernel, never of the batch: a row over a span gets the
// same bits in any company. The kernel is chosen by the rows that attend the span together.
#pragma once

#include <cstdint>

#include "kernels/kv_layout.h"

namespace lombard {

enum class AttentionKernel : uint8_t {
  kPlain,   // any type, any head_dim that is a multiple of 8
  kDecode,  // 16-bit types; few query columns: bound by the reading of K and V
  kTiles,   // 16-bit types; many query columns: bound by the matrix rate
};
constexpr int kAttentionKernels = 3;

// One piece: some rows, part of a span's keys. A kernel runs it once per KV head. `rows` 0: nothing to do.
struct alignas(16) AttentionWork {
  int32_t first_block = 0;     // of the span, in the block table
  int32_t first_key = 0;       // of the part, counted from the span's first
  int32_t key_count = 0;       // of the part
  int32_t first_position = 0;  // of the span's first key
  int32_t first_row = 0;       // in the list of rows
  int32_t rows = 0;
  int32_t first_state = 0;                     // state row of first_row; the others follow
  int32_t position_min = 0, position_max = 0;  // of the rows
  int32_t kernel = 0;                          // AttentionKernel
  int32_t reserved = 0;
};

// The query heads of a KV head's group are columns of one product: column = row * group + head in group.
constexpr int kDecodeColumnsMax = 16;
constexpr int kTileColumns = 128;

// 16 keys of a part lie in one block.
constexpr bool HasFastAttention(const KvLayout& layout) {
  return layout.dtype != DType::kF32 && layout.block_tokens % 16 == 0 &&
         (layout.head_dim == 64 || layout.head_dim == 80 || layout.head_dim == 96 || layout.head_dim == 128);
}

// For `rows` rows that attend one span together. `shared`: by rows of several sequences, however many: so
// that who else reads a prefix makes no difference.
constexpr AttentionKernel ChooseAttentionKernel(const KvLayout& layout, int group, int rows, bool shared) {
  if (!HasFastAttention(layout) || group > kTileColumns) return AttentionKernel::kPlain;
  if (!shared && rows * group <= kDecodeColumnsMax) return AttentionKernel::kDecode;
  return AttentionKernel::kTiles;
}

// Rows of one piece of work.
constexpr int AttentionRowsMax(AttentionKernel kernel, int group) {
  switch (kernel) {
    case AttentionKernel::kPlain:
      return 16;
    case AttentionKernel::kDecode:
      return kDecodeColumnsMax / group;
    case AttentionKernel::kTiles:
      return kTileColumns / group;
  }
  return 1;
}

// Keys of one part. Few columns: about 32 parts, so that 8 KV heads of one request are two pieces for each
// of 132 processors; at least 128 keys, whose 64 KiB (head_dim 128) outweigh the 2 KiB of a group's states;
// at most 1024, so that the last wave of pieces is short. Many columns: a state costs as much as 8 keys'
// traffic per column, so parts are long.
constexpr int AttentionPartKeys(AttentionKernel kernel, int token_count) {
  if (kernel == AttentionKernel::kTiles) return 4096;
  int keys = 128;
  while (keys < 1024 && keys * 32 < token_count) keys *= 2;
  return keys;
}

}  // namespace lombard
