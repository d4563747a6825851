// A prefix tree and a pool beside a model of both that is a plain map from every cached prefix to its block.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"

namespace lombard {

// How often a script did what; a test of scripts that reach nothing would prove nothing.
struct PrefixTreeScriptCounts {
  uint64_t operations = 0, hit_tokens = 0, copied_tokens = 0, duplicates = 0, evicted = 0, held_back = 0;
  uint64_t withdrawn = 0, withdrawals_stopped = 0;  // blocks; withdrawals that left the reader some
};

// Any bytes as a script: the first picks block size and hash (a good one, one of a single bit, or all hashes
// equal), the others admit, extend, finish, withdraw and abandon sequences, insert, evict, and hold blocks
// from outside. After every operation tree and model must agree on blocks, tokens, readers, times and
// statistics, and the invariants of tree and pool hold. kInternal names the first operation after which they
// do not.
absl::Status RunPrefixTreeScript(absl::Span<const uint8_t> script, PrefixTreeScriptCounts* counts = nullptr);

}  // namespace lombard
