// Where a key or value lies in its block. Plain arithmetic, for kernels of every device.
#pragma once

#include <cstdint>

#include "base/dtype.h"

namespace lombard {

// One layer's K (or V) of one block: [kv_heads, block_tokens, head_dim] of `dtype`, contiguous.
struct KvLayout {
  DType dtype = DType::kF32;
  int kv_heads = 0, head_dim = 0, block_tokens = 0;
  constexpr int64_t block_elements() const { return int64_t{kv_heads} * block_tokens * head_dim; }
  constexpr int64_t block_bytes() const { return block_elements() * static_cast<int64_t>(DTypeBytes(dtype)); }
  // Of element 0 of a head's vector in a slot.
  constexpr int64_t offset(int kv_head, int slot) const {
    return (int64_t{kv_head} * block_tokens + slot) * head_dim;
  }
};

}  // namespace lombard
