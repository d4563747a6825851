// Whether a prefix that lies at another instance is copied rather than read there.
//
// Read there, every query row and its state travel, in every layer: n_q (d p + 4 d + 8) bytes. Copied, its KV
// travels once: 2 n_kv d p bytes a key and layer. Nobody knows how many rows are still to come, so it is
// rented until the rent has reached the price, then bought: never more than twice the bytes of the better
// choice (Infinite-LLM's query shipping against Hydragen's shared prefix).
#pragma once

#include "kernels/attention.h"

namespace lombard {

// What a row costs to attend elsewhere, in keys: n_q (d p + 4 d + 8) / (2 n_kv d p).
inline double RowKeys(int q_heads, const KvLayout& layout) {
  const double bytes = static_cast<double>(DTypeBytes(layout.dtype));
  return q_heads * (layout.head_dim * (bytes + 4) + 8) / (2.0 * layout.kv_heads * layout.head_dim * bytes);
}

// `rows_sent` so far, by all readers here, to a prefix of `keys` keys.
inline bool CopyPays(double rows_sent, double row_keys, double keys) { return rows_sent * row_keys >= keys; }

}  // namespace lombard
