// Full KV blocks that outlive the sequences that computed them, found again by their tokens: a radix tree.
//
//   root of salt "a" --- [b7 b2 b9] --- [b4]          each [..] is a node: a run of consecutive full blocks;
//                                   \-- [b1 b3]       readers of a node read all of it
//   root of salt ""  --- [b5]
//
// A node is found by the chained hash of its first block (block_hash.h) and its tokens are compared, so equal
// hashes of different tokens cost time and never an answer. Salts have roots of their own: no block and no
// node is ever found under another salt.
//
//   PrefixMatch match = tree.Match(salt, prompt);                       // changes nothing
//   PrefixReader reader = tree.Pin(match, std::min(match.tokens, prompt.size() - 1), now);
//   ... retain the matched blocks for the sequence, copy match.CopySource() if needed, evict, allocate ...
//   tree.Extend(reader, new_tokens, new_blocks, now);                   // whenever blocks became full
//   tree.Unpin(reader, now);  pool.ReleaseAll(blocks of the sequence);  // what the tree took stays cached
//
// Ownership: the tree holds one pool reference to each of its blocks, taken when it adopts the block and
// given up when it evicts it or is destroyed. References of callers are never touched. A block in the tree is
// read-only; a sequence that gives one up releases it and never writes to it again.
// Readers: a pinned path is not evicted. Neither is a block to which anybody else holds a pool reference,
// since that would free nothing.
// Eviction: the childless, unread block that was used longest ago, again and again (so a run goes from its
// tail). Pin, Unpin, Insert and Extend are uses, of exactly the blocks named; Match is none.
// Units: tokens and blocks; bytes = block_count() * KvStorage::BlockBytes(). Token counts of callers are of
// one sequence from its first token on.
// Thread rule: not thread-safe; belongs to the step thread, as its pool. No clock and no randomness inside:
// the same calls give the same tree, ids and evictions on every rank and run.
// Errors: nothing here depends on the outside world; misuse is a CHECK.
// Cost: Match, Pin, Insert are O(tokens compared) and one hash per node on the path (and per new block);
// Evict O(log nodes) per node touched.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/ids.h"
#include "kvpool/block_hash.h"
#include "kvpool/kv_pool.h"

namespace lombard {

enum class PrefixNodeId : uint64_t {};  // from 1, never used twice by one tree
enum class PrefixReader : uint64_t {};

namespace internal {
struct PrefixNode;
}

// What the tree has of a prompt: `blocks` whole, and of the block after them the first
// `tokens` - blocks.size() * block_tokens tokens, in `tail_block`. Good until the next Evict.
struct PrefixMatch {
  std::vector<BlockId> blocks;
  BlockId tail_block{};  // meaningful when tokens is no multiple of block_tokens
  uint64_t tokens = 0;   // usable, whole blocks and tail
  uint64_t queried = 0;  // tokens asked for
  // The block to copy the part of block `block` from that a reader of fewer than all `tokens` needs.
  BlockId CopySource(uint32_t block) const { return block < blocks.size() ? blocks[block] : tail_block; }

  // For Pin.
  std::string salt;
  PrefixNodeId node{};  // in which the last of `blocks` lies
  uint64_t evict_calls = 0;
};

// A node as planners see it. Views are good until the tree changes.
struct PrefixNodeView {
  PrefixNodeId id{};
  PrefixNodeId parent{};     // 0: none, the node starts at token 0
  uint32_t first_block = 0;  // depth: blocks of the sequence before this node
  absl::Span<const BlockId> blocks;
  absl::Span<const int32_t> token_ids;  // blocks.size() * block_tokens
  uint64_t hash = 0;                    // of the prefix that ends with this node
  uint32_t children = 0;
  uint32_t readers = 0;  // that read this node, whether they end here or below
  // Of them, those whose path ends here. A node and its child may be planned as one span when both have the
  // same count of `readers`: then whoever reads one reads the other.
  uint32_t readers_ending = 0;
  absl::Time last_use = absl::InfinitePast();
};

struct PrefixStats {
  uint64_t queried_tokens = 0;  // of pinned matches
  uint64_t hit_tokens = 0;      // of them found here and used
  uint64_t copied_tokens = 0;   // of the hits, those in a partly used block (copy-on-write)
  uint64_t adopted_blocks = 0;
  uint64_t duplicate_blocks = 0;
  uint64_t evicted_blocks = 0;
  uint64_t withdrawn_blocks = 0;
};

class PrefixTree final : public BlockCache {
 public:
  // `pool` outlives the tree. `hash` is for tests that force collisions.
  PrefixTree(KvPool* pool, PrefixSpace space, BlockHash hash = HashBlock);
  ~PrefixTree() override;
  PrefixTree(const PrefixTree&) = delete;
  PrefixTree& operator=(const PrefixTree&) = delete;

  const PrefixSpace& space() const { return space_; }

  // The longest cached run of full blocks, and the longest agreement with a block after it.
  PrefixMatch Match(absl::string_view salt, absl::Span<const int32_t> tokens) const;

  // A reader of the first `tokens` / block_tokens blocks of the match (a node is split where they end).
  // The rest of `tokens` is counted as copied; its source (CopySource) is not pinned: copy, or retain it in
  // the pool, before the next Evict. REQUIRES: no Evict since the match; tokens <= match.tokens.
  PrefixReader Pin(const PrefixMatch& match, uint64_t tokens, absl::Time now);
  // The reader has read; what it read was used until now. REQUIRES (also below): a reader not yet unpinned.
  void Unpin(PrefixReader reader, absl::Time now);
  // As if it had never been pinned, for the statistics: its request was not admitted after all.
  void Abandon(PrefixReader reader);
  uint32_t BlocksRead(PrefixReader reader) const;
  // Those of them that it would go on reading if it withdrew now: others read them, or what follows them.
  uint32_t BlocksAfterWithdraw(PrefixReader reader) const;

  // A caller's block that the tree does not adopt since it has an equal one.
  struct Duplicate {
    uint32_t block;  // of the sequence
    BlockId given, cached;
  };
  // Adopts (retains) those of `blocks` that it has no equals of, at the place that `tokens` say. The caller's
  // references remain the caller's. A block given that is the cached one itself is no duplicate.
  // REQUIRES: tokens.size() == blocks.size() * block_tokens; allocated blocks; no block that the tree has
  // elsewhere.
  std::vector<Duplicate> Insert(absl::string_view salt, absl::Span<const int32_t> tokens,
                                absl::Span<const BlockId> blocks, absl::Time now);
  // The same for the tokens after those of `reader`, which then reads them too, in the tree's blocks: its
  // sequence should put those in the place of duplicates, to free memory and to be grouped.
  std::vector<Duplicate> Extend(PrefixReader reader, absl::Span<const int32_t> tokens,
                                absl::Span<const BlockId> blocks, absl::Time now);

  // The reader's sequence gives its blocks away and shares them no longer: the tree forgets those at the end
  // of its path that nobody else reads and nothing follows. It goes on reading the rest; returns how many.
  uint32_t Withdraw(PrefixReader reader);

  // Frees up to `count` blocks; returns how many.
  uint32_t Evict(uint32_t count) override;

  uint32_t block_count() const { return block_count_; }
  // Blocks that Evict could free, if nobody but readers holds references to the tree's blocks.
  uint32_t unread_blocks() const override { return block_count_ - read_blocks_; }
  uint32_t node_count() const { return static_cast<uint32_t>(nodes_.size() - roots_.size()); }
  uint32_t reader_count() const { return static_cast<uint32_t>(readers_.size()); }
  bool Has(BlockId id) const { return has_[Value(id)]; }
  const PrefixStats& stats() const { return stats_; }

  // Parents before children; salts and children in a fixed order. O(nodes).
  std::vector<PrefixNodeView> Nodes() const;
  // The nodes that a reader reads, from token 0 on. O(nodes on the path).
  std::vector<PrefixNodeView> Path(PrefixReader reader) const;

  // O(tokens in the tree); for tests and idle time.
  absl::Status CheckInvariants() const;

 private:
  using Node = internal::PrefixNode;
  struct Reader {
    Node* end;  // reads all of it and of its ancestors
    uint64_t queried, hit;
  };
  // Leaves in the order of eviction. Nodes with the same use lie on one path, the deeper goes first.
  using LeafKey = std::pair<uint64_t, uint64_t>;
  static LeafKey KeyOf(const Node& node);

  Node* NewNode(Node* parent, uint32_t first_block);
  Node* Root(absl::string_view salt);
  void DropRootIfEmpty(Node* root);
  Node* FindChild(const Node& node, absl::Span<const int32_t> block) const;
  uint32_t Agreement(const Node& node, absl::Span<const int32_t> tokens) const;  // full blocks
  void MatchTail(const Node& node, uint32_t used, absl::Span<const int32_t> rest, PrefixMatch* match) const;

  void Link(Node* parent, Node* child);
  void Unlink(Node* child);
  void List(Node* node);  // among the leaves, if it may be evicted
  void Unlist(Node* node);
  Node* Split(Node* node, uint32_t block_count);  // the new upper part; `node` is the lower
  void AddReader(Node* end, const Node* above);
  void Touch(Node* end, absl::Time now);
  Node* Graft(Node* start, bool read, absl::Span<const int32_t> tokens, absl::Span<const BlockId> blocks,
              std::vector<Duplicate>* duplicates);
  void Append(Node* node, uint64_t hash, absl::Span<const int32_t> tokens, absl::Span<const BlockId> blocks);
  void Shrink(Node* node, size_t block_count);
  void RemoveReader(PrefixReader reader);
  PrefixNodeView View(const Node& node) const;
  absl::Status CheckNode(const Node& node) const;

  KvPool* const pool_;
  const PrefixSpace space_;
  const BlockHash hash_;
  std::map<PrefixNodeId, std::unique_ptr<Node>> nodes_;
  std::map<std::string, Node*> roots_;  // by salt; a root has children or readers
  std::map<PrefixReader, Reader> readers_;
  std::map<LeafKey, Node*> leaves_;
  std::vector<bool> has_;  // by block of the pool
  uint32_t block_count_ = 0, read_blocks_ = 0;
  uint64_t next_node_ = 1, next_reader_ = 1, uses_ = 0, evict_calls_ = 0;
  PrefixStats stats_;
};

}  // namespace lombard
