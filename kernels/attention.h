// Partial attention: what some query rows learn from SOME keys, those of one span that lies in KV blocks of
// this machine. Knows nothing of pools, requests or ranks. distattn merges the results.
#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "kernels/cpu_context.h"
#include "kernels/kv_layout.h"

namespace lombard {

// Scores s = scale * (q . k) of the keys a row may see: with p the row's position and t the key's,
//   t <= p  and  (window == 0 or t > p - window)
// (Hugging Face's sliding window: `window` keys, the row's own included)
// The result per row and query head, written (not merged into):
//   max = largest s, -inf where the row sees no key; sum = sum exp(s - max);
//   acc = sum exp(s - max) * v; all fp32
// Query head h reads KV head h / (q_heads / kv_heads). With bf16 KV, q is rounded to bf16 (nearest even).
struct AttentionArgs {
  const float* q = nullptr;              // [rows, q_heads, head_dim], contiguous
  const int32_t* q_positions = nullptr;  // [rows], not decreasing
  int rows = 0, q_heads = 0;
  KvLayout layout;
  const void* const* k_blocks =
      nullptr;  // [ceil(token_count / block_tokens)], one layer; tokens fill from slot 0
  const void* const* v_blocks = nullptr;
  int token_count = 0;     // keys in the span; what lies behind them in the last block is never read
  int first_position = 0;  // of the span's first key; keys are at consecutive positions
  int window = 0;          // 0: none
  float scale = 1;
  float* acc = nullptr;  // [rows, q_heads, head_dim]
  float* max = nullptr;  // [rows, q_heads]
  float* sum = nullptr;  // [rows, q_heads]
};

// Every item on its own, spread over the context's threads by item, KV head, row tile and part of the span.
// One row is bound by memory: each K and V element is read once per KV head, for all its query heads. Many
// rows are tiled (FlashAttention-2's loop order: queries outside, keys inside, running max and sum).
// Allocates scratch per call. The split of a span depends on its length alone, never on the batch or on the
// number of threads, and its parts are merged in order of position: the same row over the same span gives the
// same bits in any batch (bf16 KV with products of bf16 pairs: among items of at most six query rows per KV
// head, and among those of more).
void PartialAttention(const CpuContext& context, absl::Span<const AttentionArgs> items);

// Appends rows to blocks: row r (k, v: [kv_heads, head_dim] fp32 each, rows k_stride elements apart) goes,
// rounded to layout.dtype, to slot slots[r] of the block that k_blocks[r], v_blocks[r] point to.
struct WriteKvArgs {
  const float* k = nullptr;
  const float* v = nullptr;
  int64_t k_stride = 0, v_stride = 0;
  int rows = 0;
  KvLayout layout;
  void* const* k_blocks = nullptr;  // [rows]
  void* const* v_blocks = nullptr;  // [rows]
  const int* slots = nullptr;       // [rows]
};
void WriteKv(const CpuContext& context, const WriteKvArgs& args);

}  // namespace lombard
