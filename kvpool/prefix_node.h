// Of prefix_tree.cc and prefix_tree_check.cc only: a node of the prefix tree.
#pragma once

#include <algorithm>
#include <map>
#include <set>

#include "kvpool/prefix_tree.h"

namespace lombard::internal {

struct PrefixNode {
  PrefixNodeId id{};
  PrefixNode* parent = nullptr;  // null for the root of a salt, which has no blocks
  std::string salt;              // of a root
  uint64_t empty_hash = 0;       // of a root
  uint32_t first_block = 0;
  std::vector<BlockId> blocks;
  std::vector<int32_t> tokens;   // blocks.size() * block_tokens
  std::vector<uint64_t> hashes;  // one per block, chained from token 0
  uint32_t readers = 0;          // here or below
  uint32_t readers_ending = 0;
  uint64_t use = 0;  // number of the last use; grows from node to ancestor or stays
  absl::Time last_use = absl::InfinitePast();
  bool listed = false;  // among the tree's leaves

  // By tokens of the first block; finds the child that agrees longest with tokens that match none whole.
  struct ByTokens {
    using is_transparent = void;
    static absl::Span<const int32_t> Tokens(const PrefixNode* node) {
      return absl::MakeConstSpan(node->tokens).first(node->tokens.size() / node->blocks.size());
    }
    static absl::Span<const int32_t> Tokens(absl::Span<const int32_t> tokens) { return tokens; }
    template <typename A, typename B>
    bool operator()(const A& a, const B& b) const {
      return Tokens(a) < Tokens(b);
    }
  };
  std::set<PrefixNode*, ByTokens> children;
  std::multimap<uint64_t, PrefixNode*> children_by_hash;  // of their first blocks

  uint64_t end_hash() const { return hashes.empty() ? empty_hash : hashes.back(); }
  uint32_t end_block() const { return first_block + static_cast<uint32_t>(blocks.size()); }
};

}  // namespace lombard::internal
