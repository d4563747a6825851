#include "kvpool/prefix_tree.h"

#include <algorithm>

#include "base/check.h"
#include "kvpool/prefix_node.h"

namespace lombard {
namespace {

size_t CommonLength(absl::Span<const int32_t> a, absl::Span<const int32_t> b) {
  const size_t length = std::min(a.size(), b.size());
  return std::mismatch(a.begin(), a.begin() + length, b.begin()).first - a.begin();
}

// Moves what lies from `at` on out of `v`.
template <typename T>
std::vector<T> TakeFrom(std::vector<T>& v, size_t at) {
  std::vector<T> tail(v.begin() + at, v.end());
  v.resize(at);
  return tail;
}

}  // namespace

PrefixTree::PrefixTree(KvPool* pool, PrefixSpace space, BlockHash hash)
    : pool_(pool), space_(std::move(space)), hash_(hash), has_(pool->total_count(), false) {
  CHECK_GT(space_.block_tokens, 0u);
}

PrefixTree::~PrefixTree() {
  for (const auto& [id, node] : nodes_) pool_->ReleaseAll(node->blocks);
}

PrefixMatch PrefixTree::Match(absl::string_view salt, absl::Span<const int32_t> tokens) const {
  PrefixMatch match;
  match.salt = std::string(salt);
  match.queried = tokens.size();
  match.evict_calls = evict_calls_;
  const auto root = roots_.find(match.salt);
  if (root == roots_.end()) return match;
  const Node* node = root->second;
  uint32_t used = 0;  // blocks of `node`
  while (used == node->blocks.size() && tokens.size() >= space_.block_tokens) {
    const Node* child = FindChild(*node, tokens.first(space_.block_tokens));
    if (child == nullptr) break;
    node = child;
    used = Agreement(*node, tokens);
    match.blocks.insert(match.blocks.end(), node->blocks.begin(), node->blocks.begin() + used);
    tokens.remove_prefix(size_t{used} * space_.block_tokens);
  }
  match.node = node->id;
  match.tokens = match.blocks.size() * uint64_t{space_.block_tokens};
  MatchTail(*node, used, tokens, &match);
  return match;
}

// Finds the block after the first `used` of `node` that agrees longest with `rest`, which matches none whole.
void PrefixTree::MatchTail(const Node& node, uint32_t used, absl::Span<const int32_t> rest,
                           PrefixMatch* match) const {
  const auto consider = [&](const Node& other, uint32_t block) {
    const size_t agreed = CommonLength(
        absl::MakeConstSpan(other.tokens).subspan(size_t{block} * space_.block_tokens, space_.block_tokens),
        rest);
    const uint64_t tokens = match->blocks.size() * uint64_t{space_.block_tokens} + agreed;
    if (tokens <= match->tokens) return;
    match->tokens = tokens;
    match->tail_block = other.blocks[block];
  };
  if (used < node.blocks.size()) {
    consider(node, used);
    return;
  }
  // Of sorted children, the longest agreement is next to where `rest` would be sorted in.
  const auto next = node.children.lower_bound(rest);
  if (next != node.children.end()) consider(**next, 0);
  if (next != node.children.begin()) consider(**std::prev(next), 0);
}

PrefixReader PrefixTree::Pin(const PrefixMatch& match, uint64_t tokens, absl::Time now) {
  CHECK_LE(tokens, match.tokens);
  CHECK_EQ(match.evict_calls, evict_calls_) << "pin of a match from before an eviction";
  const auto count = static_cast<uint32_t>(tokens / space_.block_tokens);
  Node* end = nullptr;
  if (count == 0) {
    end = Root(match.salt);
  } else {
    // Since the match, nodes may have been split, which leaves the old id with the lower part.
    end = nodes_.at(match.node).get();
    while (end->first_block >= count) end = end->parent;
    CHECK_LE(count, end->end_block());
    if (count < end->end_block()) end = Split(end, count - end->first_block);
  }
  AddReader(end, nullptr);
  Touch(end, now);
  const PrefixReader reader{next_reader_++};
  readers_[reader] = {.end = end, .queried = match.queried, .hit = tokens};
  ++end->readers_ending;
  stats_.queried_tokens += match.queried;
  stats_.hit_tokens += tokens;
  stats_.copied_tokens += tokens % space_.block_tokens;
  return reader;
}

void PrefixTree::Unpin(PrefixReader reader, absl::Time now) {
  const auto it = readers_.find(reader);
  CHECK(it != readers_.end()) << "no reader " << Value(reader);
  Touch(it->second.end, now);
  RemoveReader(reader);
}

void PrefixTree::Abandon(PrefixReader reader) {
  const auto it = readers_.find(reader);
  CHECK(it != readers_.end()) << "no reader " << Value(reader);
  stats_.queried_tokens -= it->second.queried;
  stats_.hit_tokens -= it->second.hit;
  stats_.copied_tokens -= it->second.hit % space_.block_tokens;
  RemoveReader(reader);
}

void PrefixTree::RemoveReader(PrefixReader reader) {
  Node* end = readers_.at(reader).end;
  readers_.erase(reader);
  --end->readers_ending;
  Node* root = end;
  for (Node* node = end; node != nullptr; node = node->parent) {
    root = node;
    if (--node->readers > 0) continue;
    read_blocks_ -= node->blocks.size();
    List(node);
  }
  DropRootIfEmpty(root);
}

uint32_t PrefixTree::BlocksRead(PrefixReader reader) const {
  const auto it = readers_.find(reader);
  CHECK(it != readers_.end()) << "no reader " << Value(reader);
  return it->second.end->end_block();
}

std::vector<PrefixTree::Duplicate> PrefixTree::Insert(absl::string_view salt,
                                                      absl::Span<const int32_t> tokens,
                                                      absl::Span<const BlockId> blocks, absl::Time now) {
  std::vector<Duplicate> duplicates;
  CHECK_EQ(tokens.size(), blocks.size() * space_.block_tokens);
  if (!blocks.empty()) Touch(Graft(Root(salt), /*read=*/false, tokens, blocks, &duplicates), now);
  return duplicates;
}

std::vector<PrefixTree::Duplicate> PrefixTree::Extend(PrefixReader reader, absl::Span<const int32_t> tokens,
                                                      absl::Span<const BlockId> blocks, absl::Time now) {
  std::vector<Duplicate> duplicates;
  CHECK_EQ(tokens.size(), blocks.size() * space_.block_tokens);
  const auto it = readers_.find(reader);
  CHECK(it != readers_.end()) << "no reader " << Value(reader);
  Node* const start = it->second.end;
  Node* const end = Graft(start, /*read=*/true, tokens, blocks, &duplicates);
  AddReader(end, start);
  --start->readers_ending;
  ++end->readers_ending;
  it->second.end = end;
  Touch(end, now);
  return duplicates;
}

// Puts `blocks` below `start` where they are not there yet; returns the node that ends with the last of them.
// `read`: one of start's readers is the caller's own, which will read on.
PrefixTree::Node* PrefixTree::Graft(Node* start, bool read, absl::Span<const int32_t> tokens,
                                    absl::Span<const BlockId> blocks, std::vector<Duplicate>* duplicates) {
  Node* node = start;
  while (!blocks.empty()) {
    Node* child = FindChild(*node, tokens.first(space_.block_tokens));
    if (child == nullptr) break;
    const uint32_t agreed = Agreement(*child, tokens);
    for (uint32_t i = 0; i < agreed; ++i) {
      if (child->blocks[i] == blocks[i]) continue;
      CHECK(!Has(blocks[i])) << "block " << Value(blocks[i]) << " is in the prefix tree at another place";
      duplicates->push_back({child->first_block + i, blocks[i], child->blocks[i]});
    }
    node = agreed < child->blocks.size() ? Split(child, agreed) : child;
    tokens.remove_prefix(size_t{agreed} * space_.block_tokens);
    blocks.remove_prefix(agreed);
  }
  stats_.duplicate_blocks += duplicates->size();
  if (blocks.empty()) return node;
  // A run grows in place unless it has other readers, who would have to read the new blocks.
  const uint32_t own_readers = read && node == start ? 1 : 0;
  if (node->parent == nullptr || !node->children.empty() || node->readers > own_readers) {
    Node* parent = node;
    node = NewNode(parent, parent->end_block());
    Append(node, parent->end_hash(), tokens, blocks);
    Link(parent, node);
    List(node);
  } else {
    Append(node, node->end_hash(), tokens, blocks);
    if (node->readers > 0) read_blocks_ += blocks.size();
  }
  return node;
}

void PrefixTree::Append(Node* node, uint64_t hash, absl::Span<const int32_t> tokens,
                        absl::Span<const BlockId> blocks) {
  for (size_t i = 0; i < blocks.size(); ++i) {
    CHECK(!Has(blocks[i])) << "block " << Value(blocks[i]) << " is in the prefix tree at another place";
    pool_->Retain(blocks[i]);
    has_[Value(blocks[i])] = true;
    hash = hash_(hash, tokens.subspan(i * space_.block_tokens, space_.block_tokens));
    node->hashes.push_back(hash);
  }
  node->blocks.insert(node->blocks.end(), blocks.begin(), blocks.end());
  node->tokens.insert(node->tokens.end(), tokens.begin(), tokens.end());
  block_count_ += blocks.size();
  stats_.adopted_blocks += blocks.size();
}

uint32_t PrefixTree::BlocksAfterWithdraw(PrefixReader reader) const {
  const auto it = readers_.find(reader);
  CHECK(it != readers_.end()) << "no reader " << Value(reader);
  const Node* node = it->second.end;
  for (size_t children = 0;
       node->parent != nullptr && node->readers == 1 && node->children.size() == children; children = 1)
    node = node->parent;
  return node->end_block();
}

uint32_t PrefixTree::Withdraw(PrefixReader reader) {
  const auto it = readers_.find(reader);
  CHECK(it != readers_.end()) << "no reader " << Value(reader);
  Node*& end = it->second.end;
  while (end->parent != nullptr && end->readers == 1 && end->children.empty()) {
    Node* const parent = end->parent;
    read_blocks_ -= end->blocks.size();
    stats_.withdrawn_blocks += end->blocks.size();
    end->readers = end->readers_ending = 0;
    Shrink(end, 0);
    ++parent->readers_ending;
    end = parent;
  }
  return end->end_block();
}

uint32_t PrefixTree::Evict(uint32_t count) {
  ++evict_calls_;
  uint32_t freed = 0;
  for (auto it = leaves_.begin(); freed < count && it != leaves_.end();) {
    const LeafKey key = it->first;
    Node* node = it->second;
    size_t keep = node->blocks.size();
    while (keep > 0 && freed < count && pool_->references(node->blocks[keep - 1]) == 1) {
      --keep;
      ++freed;
    }
    Shrink(node, keep);
    // The parent, if it became a leaf, is listed behind its child.
    it = leaves_.upper_bound(key);
  }
  stats_.evicted_blocks += freed;
  return freed;
}

// Gives up the blocks of an unread leaf from `block_count` on; without any left, the leaf goes too.
void PrefixTree::Shrink(Node* node, size_t block_count) {
  const std::vector<BlockId> dropped(node->blocks.begin() + block_count, node->blocks.end());
  if (block_count == 0) {
    Node* parent = node->parent;
    Unlist(node);
    Unlink(node);
    nodes_.erase(node->id);
    List(parent);
    DropRootIfEmpty(parent);
  } else {
    node->blocks.resize(block_count);
    node->hashes.resize(block_count);
    node->tokens.resize(block_count * space_.block_tokens);
  }
  block_count_ -= dropped.size();
  for (auto it = dropped.rbegin(); it != dropped.rend(); ++it) {
    has_[Value(*it)] = false;
    pool_->Release(*it);
  }
}

PrefixTree::Node* PrefixTree::NewNode(Node* parent, uint32_t first_block) {
  auto node = std::make_unique<Node>();
  node->id = PrefixNodeId{next_node_++};
  node->parent = parent;
  node->first_block = first_block;
  return nodes_.emplace(node->id, std::move(node)).first->second.get();
}

PrefixTree::Node* PrefixTree::Root(absl::string_view salt) {
  Node*& root = roots_[std::string(salt)];
  if (root == nullptr) {
    root = NewNode(nullptr, 0);
    root->salt = std::string(salt);
    root->empty_hash = HashEmptyPrefix(space_, salt);
  }
  return root;
}

void PrefixTree::DropRootIfEmpty(Node* root) {
  if (root->parent != nullptr || !root->children.empty() || root->readers > 0) return;
  roots_.erase(root->salt);
  nodes_.erase(root->id);
}

PrefixTree::Node* PrefixTree::FindChild(const Node& node, absl::Span<const int32_t> block) const {
  auto [it, end] = node.children_by_hash.equal_range(hash_(node.end_hash(), block));
  for (; it != end; ++it) {
    if (Node::ByTokens::Tokens(it->second) == block) return it->second;
  }
  return nullptr;
}

uint32_t PrefixTree::Agreement(const Node& node, absl::Span<const int32_t> tokens) const {
  return static_cast<uint32_t>(CommonLength(node.tokens, tokens) / space_.block_tokens);
}

void PrefixTree::Link(Node* parent, Node* child) {
  Unlist(parent);
  child->parent = parent;
  CHECK(parent->children.insert(child).second);
  parent->children_by_hash.emplace(child->hashes[0], child);
}

void PrefixTree::Unlink(Node* child) {
  Node* parent = child->parent;
  parent->children.erase(child);
  auto it = parent->children_by_hash.lower_bound(child->hashes[0]);
  while (it->second != child) ++it;
  parent->children_by_hash.erase(it);
}

PrefixTree::LeafKey PrefixTree::KeyOf(const Node& node) { return {node.use, ~uint64_t{node.first_block}}; }

void PrefixTree::List(Node* node) {
  if (node->listed || node->parent == nullptr || !node->children.empty() || node->readers > 0) return;
  node->listed = leaves_.emplace(KeyOf(*node), node).second;
  CHECK(node->listed);
}

void PrefixTree::Unlist(Node* node) {
  if (node->listed) leaves_.erase(KeyOf(*node));
  node->listed = false;
}

PrefixTree::Node* PrefixTree::Split(Node* node, uint32_t block_count) {
  Unlist(node);
  Unlink(node);
  Node* upper = NewNode(node->parent, node->first_block);
  upper->readers = node->readers;
  upper->use = node->use;
  upper->last_use = node->last_use;
  upper->blocks = std::move(node->blocks);
  upper->hashes = std::move(node->hashes);
  upper->tokens = std::move(node->tokens);
  node->blocks = TakeFrom(upper->blocks, block_count);
  node->hashes = TakeFrom(upper->hashes, block_count);
  node->tokens = TakeFrom(upper->tokens, size_t{block_count} * space_.block_tokens);
  node->first_block += block_count;
  Link(upper->parent, upper);
  Link(upper, node);
  List(node);
  return upper;
}

// One more reader of `end` and its ancestors below `above`.
void PrefixTree::AddReader(Node* end, const Node* above) {
  for (Node* node = end; node != above; node = node->parent) {
    if (node->readers++ > 0) continue;
    read_blocks_ += node->blocks.size();
    Unlist(node);
  }
}

void PrefixTree::Touch(Node* end, absl::Time now) {
  ++uses_;
  for (Node* node = end; node != nullptr; node = node->parent) {
    Unlist(node);
    node->use = uses_;
    node->last_use = std::max(node->last_use, now);
    List(node);
  }
}

PrefixNodeView PrefixTree::View(const Node& node) const {
  const bool top = node.parent == nullptr || node.parent->parent == nullptr;
  return {.id = node.id,
          .parent = top ? PrefixNodeId{} : node.parent->id,
          .first_block = node.first_block,
          .blocks = node.blocks,
          .token_ids = node.tokens,
          .hash = node.end_hash(),
          .children = static_cast<uint32_t>(node.children.size()),
          .readers = node.readers,
          .readers_ending = node.readers_ending,
          .last_use = node.last_use};
}

std::vector<PrefixNodeView> PrefixTree::Nodes() const {
  std::vector<PrefixNodeView> views;
  std::vector<const Node*> stack;
  for (auto root = roots_.rbegin(); root != roots_.rend(); ++root) stack.push_back(root->second);
  while (!stack.empty()) {
    const Node* node = stack.back();
    stack.pop_back();
    if (node->parent != nullptr) views.push_back(View(*node));
    stack.insert(stack.end(), node->children.rbegin(), node->children.rend());
  }
  return views;
}

std::vector<PrefixNodeView> PrefixTree::Path(PrefixReader reader) const {
  const auto it = readers_.find(reader);
  CHECK(it != readers_.end()) << "no reader " << Value(reader);
  std::vector<PrefixNodeView> views;
  for (const Node* node = it->second.end; node->parent != nullptr; node = node->parent) {
    views.push_back(View(*node));
  }
  std::reverse(views.begin(), views.end());
  return views;
}

}  // namespace lombard
