// The order in which a batch job runs its prompts so that those with a common beginning follow each other:
// what one has computed is still cached when the next comes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace lombard {

// A permutation of the prompts' indices. Prompts that share at least `shared_tokens_min` first tokens with a
// neighbour in lexicographic order form a group, in that order; groups come in the order of their first
// prompts, so that prompts which share nothing stay as they were.
std::vector<size_t> TreeOrder(const std::vector<std::vector<int32_t>>& prompts, size_t shared_tokens_min);

}  // namespace lombard
