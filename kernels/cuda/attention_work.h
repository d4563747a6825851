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
constexpr int kDecodeColumns = 8;      // of a block; a larger group takes several
constexpr int kDecodeColumnsMax = 32;  // of an item; its pieces find K and V in the second-level cache
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
      return group < kDecodeColumns ? kDecodeColumns / group : 1;
    case AttentionKernel::kTiles:
      return kTileColumns / group;
  }
  return 1;
}

// Keys of one part. Few columns: about 32 parts, so that 8 KV heads of one request are two pieces for each
// of 132 processors; at least 128 keys, whose 64 KiB (head_dim 128) outweigh the 2 KiB of a group's states;
// at most 1024, so that the last wave of pieces is short. Many columns: a part's states, written and read
// again, cost as much time as some 200 keys' products (8 bytes at 4.5 TB/s, 4 operations at 500 TFLOP/s per
// dimension), and memory: at most 4 parts, and parts of 16 Ki keys where a span is longer than 64 Ki.
constexpr int AttentionPartKeys(AttentionKernel kernel, int token_count) {
  const bool tiles = kernel == AttentionKernel::kTiles;
  const int parts = tiles ? 4 : 32, keys_max = tiles ? 16384 : 1024;
  int keys = tiles ? 256 : 128;
  while (keys < keys_max && keys * int64_t{parts} < token_count) keys *= 2;
  return keys;
}

// Whether rows of one sequence are so many that they fill the chip without a cut, as in prefill. (Of a shared
// span the readers' number is the batch's doing, and must not matter.)
constexpr bool AttendsWhole(AttentionKernel kernel, int columns, int kv_heads, bool shared) {
  return kernel == AttentionKernel::kTiles && !shared &&
         int64_t{columns} * kv_heads >= int64_t{128} * kTileColumns;
}

// Keys [begin, end) of a span, counted from its first.
struct KeyRange {
  int32_t begin, end;
};

// What a row at `position` sees of the piece's part.
constexpr KeyRange VisibleKeys(const AttentionWork& work, int32_t position, int32_t window) {
  const int32_t last = position - work.first_position;  // its own place in the span
  KeyRange keys{work.first_key, work.first_key + work.key_count};
  if (last + 1 < keys.end) keys.end = last + 1;
  if (window > 0 && last - window + 1 > keys.begin) keys.begin = last - window + 1;
  if (keys.end < keys.begin) keys.end = keys.begin;
  return keys;
}

// What any row of the piece sees, and what lies between.
constexpr KeyRange KeysOfPiece(const AttentionWork& work, int32_t window) {
  KeyRange keys{work.first_key, work.first_key + work.key_count};
  const int32_t last = work.position_max - work.first_position;
  if (last + 1 < keys.end) keys.end = last + 1;
  const int32_t first = work.position_min - work.first_position - window + 1;
  if (window > 0 && first > keys.begin) keys.begin = first;
  if (keys.begin > keys.end) keys.begin = keys.end;
  return keys;
}

// In elements from the start of the slab: key number `key` of the span that starts at `blocks`.
constexpr int64_t KeyOffset(const int32_t* blocks, int32_t key, int32_t block_tokens, int32_t kv_heads,
                            int32_t kv_head, int32_t head_dim) {
  const int64_t block = blocks[key / block_tokens];
  return ((block * kv_heads + kv_head) * block_tokens + key % block_tokens) * head_dim;
}

}  // namespace lombard
