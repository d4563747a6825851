#include <set>

#include "base/status.h"
#include "kvpool/prefix_node.h"

namespace lombard {

absl::Status PrefixTree::CheckNode(const Node& node) const {
  const auto bad = [&](const auto&... what) {
    return absl::InternalError(absl::StrCat("prefix node ", Value(node.id), ": ", what...));
  };
  const size_t count = node.blocks.size(), block_tokens = space_.block_tokens;
  if ((node.parent == nullptr) != (count == 0)) return bad(count, " blocks");
  if (node.parent == nullptr) {
    const auto root = roots_.find(node.salt);
    if (root == roots_.end() || root->second != &node) return bad("is no root of its salt");
    if (node.children.empty() && node.readers == 0) return bad("is a root without use");
    if (node.empty_hash != HashEmptyPrefix(space_, node.salt)) return bad("wrong hash of the empty prefix");
  } else {
    if (node.first_block != node.parent->end_block()) return bad("starts at block ", node.first_block);
    if (node.use > node.parent->use || node.last_use > node.parent->last_use)
      return bad("was used after its parent");
    if (node.readers > node.parent->readers) return bad("has more readers than its parent");
  }
  if (node.tokens.size() != count * block_tokens || node.hashes.size() != count)
    return bad(count, " blocks, ", node.tokens.size(), " tokens, ", node.hashes.size(), " hashes");
  uint64_t hash = node.parent != nullptr ? node.parent->end_hash() : 0;
  for (size_t i = 0; i < count; ++i) {
    hash = hash_(hash, absl::MakeConstSpan(node.tokens).subspan(i * block_tokens, block_tokens));
    if (hash != node.hashes[i]) return bad("wrong hash of its block ", i);
  }
  if (node.children.size() != node.children_by_hash.size()) return bad("its two child indices differ");
  uint32_t readers = node.readers_ending;
  for (const auto& [first_hash, child] : node.children_by_hash) {
    if (child->parent != &node || child->hashes[0] != first_hash || node.children.count(child) != 1)
      return bad("holds a foreign child");
    readers += child->readers;
  }
  if (readers != node.readers) return bad(node.readers, " readers, ", readers, " in its parts");
  const bool evictable = node.parent != nullptr && node.children.empty() && node.readers == 0;
  const auto leaf = leaves_.find(KeyOf(node));
  const bool listed = leaf != leaves_.end() && leaf->second == &node;
  if (listed != evictable || node.listed != evictable)
    return bad(evictable ? "may" : "may not", " be evicted and is", listed ? "" : " not", " listed");
  return absl::OkStatus();
}

absl::Status PrefixTree::CheckInvariants() const {
  std::set<BlockId> blocks;
  uint32_t roots = 0, read = 0, listed = 0, ending = 0;
  for (const auto& [id, node] : nodes_) {
    RETURN_IF_ERROR(CheckNode(*node));
    for (const BlockId block : node->blocks) {
      if (!blocks.insert(block).second)
        return absl::InternalError(absl::StrCat("block ", Value(block), " is in the prefix tree twice"));
      if (!Has(block) || pool_->references(block) == 0)
        return absl::InternalError(absl::StrCat("block ", Value(block), " of the prefix tree is not held"));
    }
    roots += node->parent == nullptr;
    read += node->readers > 0 ? node->blocks.size() : 0;
    listed += node->listed;
    ending += node->readers_ending;
  }
  std::map<const Node*, uint32_t> ends;
  for (const auto& [id, reader] : readers_) ++ends[reader.end];
  for (const auto& [node, count] : ends) {
    if (node->readers_ending != count)
      return absl::InternalError(absl::StrCat(count, " readers end at prefix node ", Value(node->id),
                                              ", not ", node->readers_ending));
  }
  if (blocks.size() != block_count_ || std::count(has_.begin(), has_.end(), true) != block_count_ ||
      roots != roots_.size() || read != read_blocks_ || listed != leaves_.size() || ending != readers_.size())
    return absl::InternalError(absl::StrCat("prefix tree sums: blocks ", blocks.size(), " of ", block_count_,
                                            ", roots ", roots, " of ", roots_.size(), ", read ", read, " of ",
                                            read_blocks_, ", leaves ", listed, " of ", leaves_.size(),
                                            ", readers ", ending, " of ", readers_.size()));
  if (stats_.adopted_blocks != stats_.evicted_blocks + stats_.withdrawn_blocks + block_count_) {
    return absl::InternalError(absl::StrCat("adopted ", stats_.adopted_blocks, ", evicted ",
                                            stats_.evicted_blocks, ", withdrawn ", stats_.withdrawn_blocks,
                                            ", has ", block_count_));
  }
  return absl::OkStatus();
}

}  // namespace lombard
