// Names for full KV blocks: the hash of a block covers every token up to its end and all else that must be
// equal before KV can be read instead of computed. Equal on every host and in every build, so that a name can
// travel between ranks. It is a name, not a proof: whoever finds a block by hash compares the tokens too.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace lombard {

// KV of equal tokens is interchangeable only within one such space.
struct PrefixSpace {
  uint64_t model_fingerprint = 0;
  std::string kv_format;  // of the pool's bytes: "f32", "bf16", ...
  uint32_t block_tokens = 32;
};

// The hash of the prefix that contains no token. `salt` separates those who must not share (a tenant, a
// request); "" is a salt like any other.
uint64_t HashEmptyPrefix(const PrefixSpace& space, absl::string_view salt);

// The hash of a block, from the hash of what lies before it and its own tokens.
using BlockHash = uint64_t (*)(uint64_t before, absl::Span<const int32_t> tokens);
uint64_t HashBlock(uint64_t before, absl::Span<const int32_t> tokens);
// The hashes of all full blocks of a sequence, from its first token on.
std::vector<uint64_t> HashFullBlocks(const PrefixSpace& space, absl::string_view salt,
                                     absl::Span<const int32_t> tokens);

}  // namespace lombard
