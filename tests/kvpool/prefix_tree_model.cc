#include "tests/kvpool/prefix_tree_model.h"

#include <algorithm>
#include <map>
#include <tuple>
#include <vector>

#include "base/status.h"
#include "kvpool/prefix_tree.h"

namespace lombard {
namespace {

constexpr uint32_t kPoolBlocks = 24;
constexpr size_t kSequencesMax = 6;
constexpr int kOperations = 9;

using Tokens = std::vector<int32_t>;
using Key = std::pair<std::string, Tokens>;  // salt, and all tokens up to the end of the block

uint64_t SameHash(uint64_t, absl::Span<const int32_t>) { return 7; }
uint64_t OneBitHash(uint64_t before, absl::Span<const int32_t> tokens) {
  return HashBlock(before, tokens) & 1;
}

struct Entry {
  BlockId block{};
  uint64_t use = 0;
  absl::Time last_use;
};

struct Sequence {
  PrefixReader reader{};
  std::string salt;
  Tokens tokens;                // whole blocks only
  std::vector<BlockId> blocks;  // one pool reference each
  uint64_t queried = 0, hit = 0;
};

class Pair {
 public:
  Pair(absl::Span<const uint8_t> script, PrefixTreeScriptCounts* counts)
      : script_(script),
        counts_(*counts),
        config_(Byte()),
        block_tokens_(1 + config_ % 3),
        pool_(kPoolBlocks, [this](BlockId id) { freed_.push_back(id); }),
        tree_(&pool_, {.model_fingerprint = 1, .kv_format = "f32", .block_tokens = block_tokens_},
              config_ / 3 % 3 == 0   ? HashBlock
              : config_ / 3 % 3 == 1 ? SameHash
                                     : OneBitHash) {}

  absl::Status Run() {
    while (!script_.empty()) {
      const uint8_t operation = Byte();
      now_ += absl::Milliseconds(operation % 3);  // also none
      absl::Status status = Step(operation);
      if (status.ok()) status = Check();
      if (!status.ok()) {
        return Annotate(status,
                        absl::StrCat("operation ", counts_.operations, " (", operation % kOperations, ")"));
      }
      ++counts_.operations;
    }
    while (!sequences_.empty()) Finish(0);
    pool_.ReleaseAll(held_);
    held_.clear();
    RETURN_IF_ERROR(Evict(kPoolBlocks));
    RETURN_IF_ERROR(Check());
    if (pool_.used_count() > 0 || tree_.node_count() > 0) {
      return absl::InternalError(absl::StrCat(pool_.used_count(), " blocks are left"));
    }
    return absl::OkStatus();
  }

 private:
  absl::Status Step(uint8_t operation) {
    switch (operation % kOperations) {
      case 0:
      case 1:
        return Admit();
      case 2:
      case 3:
        return Extend();
      case 4:
        if (!sequences_.empty()) Finish(Byte() % sequences_.size());
        return absl::OkStatus();
      case 5:
        if (!sequences_.empty()) Abandon(Byte() % sequences_.size());
        return absl::OkStatus();
      case 6:
        return Insert();
      case 8:
        return sequences_.empty() ? absl::OkStatus() : Withdraw(sequences_[Byte() % sequences_.size()]);
      default:
        if (!held_.empty() && Byte() % 2 == 0) {
          pool_.Release(held_.back());
          held_.pop_back();
        }
        return Evict(Byte() % 8);
    }
  }

  absl::Status Admit() {
    if (sequences_.size() == kSequencesMax) return absl::OkStatus();
    const std::string salt = Salt();
    const Tokens prompt = RandomTokens(Byte() % 14);
    const PrefixMatch match = tree_.Match(salt, prompt);
    RETURN_IF_ERROR(CheckMatch(salt, prompt, match));
    Sequence sequence{.salt = salt, .queried = prompt.size()};
    sequence.hit = match.tokens == 0 ? 0 : match.tokens - std::min<uint64_t>(Byte() % 4, match.tokens);
    sequence.reader = tree_.Pin(match, sequence.hit, now_);
    const size_t blocks = sequence.hit / block_tokens_;
    sequence.tokens = First(prompt, blocks);
    sequence.blocks.assign(match.blocks.begin(), match.blocks.begin() + blocks);
    for (const BlockId id : sequence.blocks) pool_.Retain(id);
    if (sequence.hit % block_tokens_ > 0) {  // the source must hold the tokens that are copied
      const BlockId source = match.CopySource(blocks);
      const auto it = std::find_if(cached_.begin(), cached_.end(),
                                   [&](const auto& entry) { return entry.second.block == source; });
      if (it == cached_.end() || it->first.first != salt ||
          !std::equal(prompt.begin(), prompt.begin() + sequence.hit, it->first.second.begin())) {
        return absl::InternalError(absl::StrCat("copy from block ", Value(source)));
      }
    }
    Touch(salt, sequence.tokens);
    stats_.queried_tokens += sequence.queried;
    stats_.hit_tokens += sequence.hit;
    stats_.copied_tokens += sequence.hit % block_tokens_;
    counts_.hit_tokens += sequence.hit;
    counts_.copied_tokens += sequence.hit % block_tokens_;
    sequences_.push_back(std::move(sequence));
    return absl::OkStatus();
  }

  absl::Status Extend() {
    if (sequences_.empty()) return absl::OkStatus();
    Sequence& sequence = sequences_[Byte() % sequences_.size()];
    std::vector<BlockId> blocks;
    RETURN_IF_ERROR(Allocate(Byte() % 4, &blocks));
    const Tokens tokens = RandomTokens(blocks.size() * block_tokens_);
    const auto duplicates = tree_.Extend(sequence.reader, tokens, blocks, now_);
    RETURN_IF_ERROR(Adopt(sequence.salt, sequence.tokens, tokens, blocks, duplicates));
    const size_t first = sequence.blocks.size();
    sequence.tokens.insert(sequence.tokens.end(), tokens.begin(), tokens.end());
    sequence.blocks.insert(sequence.blocks.end(), blocks.begin(), blocks.end());
    for (const auto& duplicate : duplicates) {
      if (Byte() % 2 == 0) continue;  // a caller may keep its own
      if (duplicate.block < first) return absl::InternalError("duplicate of another call");
      pool_.Retain(duplicate.cached);
      pool_.Release(duplicate.given);
      sequence.blocks[duplicate.block] = duplicate.cached;
    }
    Touch(sequence.salt, sequence.tokens);
    return absl::OkStatus();
  }

  absl::Status Insert() {
    const std::string salt = Salt();
    std::vector<BlockId> blocks;
    RETURN_IF_ERROR(Allocate(Byte() % 6, &blocks));
    const Tokens tokens = RandomTokens(blocks.size() * block_tokens_);
    RETURN_IF_ERROR(Adopt(salt, {}, tokens, blocks, tree_.Insert(salt, tokens, blocks, now_)));
    if (!blocks.empty()) Touch(salt, tokens);
    const size_t kept = held_.size() < 4 ? Byte() % 8 : blocks.size();
    for (size_t i = 0; i < blocks.size(); ++i) {
      i == kept ? held_.push_back(blocks[i]) : pool_.Release(blocks[i]);
    }
    return absl::OkStatus();
  }

  void Finish(size_t i) {
    const Sequence sequence = Take(i);
    tree_.Unpin(sequence.reader, now_);
    Touch(sequence.salt, sequence.tokens);
    pool_.ReleaseAll(sequence.blocks);
  }

  void Abandon(size_t i) {
    const Sequence sequence = Take(i);
    tree_.Abandon(sequence.reader);
    stats_.queried_tokens -= sequence.queried;
    stats_.hit_tokens -= sequence.hit;
    stats_.copied_tokens -= sequence.hit % block_tokens_;
    pool_.ReleaseAll(sequence.blocks);
  }

  // Forgets the end of the sequence's path, block by block; the sequence gives those blocks away.
  absl::Status Withdraw(Sequence& sequence) {
    size_t left = sequence.blocks.size();
    for (; left > 0; --left) {
      const Key key(sequence.salt, First(sequence.tokens, left));
      if (Readers(key) > 1 || HasChild(key)) break;
      cached_.erase(key);
    }
    const uint32_t would_keep = tree_.BlocksAfterWithdraw(sequence.reader);
    const uint32_t kept = tree_.Withdraw(sequence.reader);
    if (kept != would_keep)
      return absl::InternalError(absl::StrCat(kept, " blocks are left, foretold were ", would_keep));
    if (kept != left) return absl::InternalError(absl::StrCat(kept, " blocks are left, not ", left));
    for (size_t i = left; i < sequence.blocks.size(); ++i) {
      held_.size() < 4 && Byte() % 4 == 0 ? held_.push_back(sequence.blocks[i])
                                          : pool_.Release(sequence.blocks[i]);
    }
    stats_.withdrawn_blocks += sequence.blocks.size() - left;
    counts_.withdrawn += sequence.blocks.size() - left;
    counts_.withdrawals_stopped += left > 0;
    sequence.tokens.resize(left * block_tokens_);
    sequence.blocks.resize(left);
    return absl::OkStatus();
  }

  Sequence Take(size_t i) {
    const Sequence sequence = sequences_[i];
    sequences_.erase(sequences_.begin() + i);
    return sequence;
  }

  // The definition of eviction, block by block.
  absl::Status Evict(uint32_t count) {
    std::vector<BlockId> expected;
    while (expected.size() < count) {
      auto victim = cached_.end();
      for (auto it = cached_.begin(); it != cached_.end(); ++it) {
        if (HasChild(it->first) || Readers(it->first) > 0) continue;
        if (HeldOutside(it->second.block)) {
          ++counts_.held_back;
          continue;
        }
        if (victim == cached_.end() || it->second.use < victim->second.use) victim = it;
      }
      if (victim == cached_.end()) break;
      expected.push_back(victim->second.block);
      cached_.erase(victim);
    }
    freed_.clear();
    if (tree_.Evict(count) != expected.size() || freed_ != expected) {
      return absl::InternalError(
          absl::StrCat("evicted ", freed_.size(), " blocks, not the expected ", expected.size()));
    }
    stats_.evicted_blocks += expected.size();
    counts_.evicted += expected.size();
    return absl::OkStatus();
  }

  // What the tree must have done with blocks that follow `before`.
  absl::Status Adopt(const std::string& salt, Tokens before, const Tokens& tokens,
                     const std::vector<BlockId>& blocks,
                     const std::vector<PrefixTree::Duplicate>& duplicates) {
    const size_t first = before.size() / block_tokens_;
    size_t found = 0;
    for (size_t i = 0; i < blocks.size(); ++i) {
      before.insert(before.end(), tokens.begin() + i * block_tokens_,
                    tokens.begin() + (i + 1) * block_tokens_);
      const auto [it, is_new] = cached_.emplace(Key(salt, before), Entry{.block = blocks[i]});
      if (is_new) continue;
      if (found == duplicates.size() || duplicates[found].block != first + i ||
          duplicates[found].given != blocks[i] || duplicates[found].cached != it->second.block) {
        return absl::InternalError(absl::StrCat("duplicate at block ", first + i, " not reported"));
      }
      ++found;
    }
    if (found != duplicates.size()) return absl::InternalError("too many duplicates");
    stats_.duplicate_blocks += found;
    stats_.adopted_blocks += blocks.size() - found;
    counts_.duplicates += found;
    return absl::OkStatus();
  }

  absl::Status CheckMatch(const std::string& salt, const Tokens& prompt, const PrefixMatch& match) const {
    const std::vector<BlockId> blocks = CachedBlocks(salt, prompt);
    if (match.blocks != blocks) {
      return absl::InternalError(
          absl::StrCat("matched ", match.blocks.size(), " blocks, not ", blocks.size(), " or other ones"));
    }
    const Tokens matched = First(prompt, blocks.size());
    size_t tail = 0;
    for (const auto& [key, entry] : cached_) {
      if (key.first != salt || key.second.size() != matched.size() + block_tokens_) continue;
      if (!std::equal(matched.begin(), matched.end(), key.second.begin())) continue;
      size_t agreed = matched.size();
      while (agreed < std::min(prompt.size(), key.second.size()) && prompt[agreed] == key.second[agreed])
        ++agreed;
      tail = std::max(tail, agreed - matched.size());
    }
    if (match.tokens != matched.size() + tail || match.queried != prompt.size()) {
      return absl::InternalError(
          absl::StrCat("matched ", match.tokens, " tokens, not ", matched.size(), " + ", tail));
    }
    return absl::OkStatus();
  }

  absl::Status Check() const {
    RETURN_IF_ERROR(tree_.CheckInvariants());
    RETURN_IF_ERROR(pool_.CheckInvariants());
    using Seen = std::tuple<Tokens, uint32_t, absl::Time>;  // prefix, readers, last use
    std::map<BlockId, Seen> in_tree, in_model;
    std::map<PrefixNodeId, Tokens> prefixes = {{PrefixNodeId{}, {}}};
    for (const PrefixNodeView& node : tree_.Nodes()) {
      if (prefixes.count(node.parent) == 0) return absl::InternalError("child before parent");
      Tokens prefix = prefixes[node.parent];
      if (prefix.size() != uint64_t{node.first_block} * block_tokens_) return absl::InternalError("depth");
      for (size_t i = 0; i < node.blocks.size(); ++i) {
        const auto tokens = node.token_ids.subspan(i * block_tokens_, block_tokens_);
        prefix.insert(prefix.end(), tokens.begin(), tokens.end());
        in_tree[node.blocks[i]] = {prefix, node.readers, node.last_use};
      }
      prefixes[node.id] = prefix;
    }
    uint32_t unread = 0;
    for (const auto& [key, entry] : cached_) {
      in_model[entry.block] = {key.second, Readers(key), entry.last_use};
      unread += Readers(key) == 0;
      if (tree_.Match(key.first, key.second).blocks != CachedBlocks(key.first, key.second)) {
        return absl::InternalError("a cached prefix is not matched whole");
      }
    }
    if (in_tree != in_model) return absl::InternalError("tree and model hold different blocks");
    if (tree_.block_count() != cached_.size() || tree_.unread_blocks() != unread)
      return absl::InternalError("block counts");
    for (const Sequence& sequence : sequences_) {
      Tokens path;
      for (const PrefixNodeView& node : tree_.Path(sequence.reader)) {
        path.insert(path.end(), node.token_ids.begin(), node.token_ids.end());
      }
      if (path != sequence.tokens || tree_.BlocksRead(sequence.reader) * block_tokens_ != path.size())
        return absl::InternalError("a reader reads something else");
    }
    const PrefixStats& stats = tree_.stats();
    if (std::tie(stats.queried_tokens, stats.hit_tokens, stats.copied_tokens, stats.adopted_blocks,
                 stats.duplicate_blocks, stats.evicted_blocks, stats.withdrawn_blocks) !=
        std::tie(stats_.queried_tokens, stats_.hit_tokens, stats_.copied_tokens, stats_.adopted_blocks,
                 stats_.duplicate_blocks, stats_.evicted_blocks, stats_.withdrawn_blocks)) {
      return absl::InternalError("statistics");
    }
    return absl::OkStatus();
  }

  std::vector<BlockId> CachedBlocks(const std::string& salt, const Tokens& tokens) const {
    std::vector<BlockId> blocks;
    for (size_t count = 1; count * block_tokens_ <= tokens.size(); ++count) {
      const auto it = cached_.find(Key(salt, First(tokens, count)));
      if (it == cached_.end()) break;
      blocks.push_back(it->second.block);
    }
    return blocks;
  }

  bool HasChild(const Key& key) const {
    return std::any_of(cached_.begin(), cached_.end(), [&](const auto& entry) {
      return entry.first.first == key.first && entry.first.second.size() > key.second.size() &&
             std::equal(key.second.begin(), key.second.end(), entry.first.second.begin());
    });
  }

  uint32_t Readers(const Key& key) const {
    return std::count_if(sequences_.begin(), sequences_.end(), [&](const Sequence& sequence) {
      return sequence.salt == key.first && sequence.tokens.size() >= key.second.size() &&
             std::equal(key.second.begin(), key.second.end(), sequence.tokens.begin());
    });
  }

  bool HeldOutside(BlockId id) const {
    return std::count(held_.begin(), held_.end(), id) > 0 ||
           std::any_of(sequences_.begin(), sequences_.end(), [&](const Sequence& sequence) {
             return std::count(sequence.blocks.begin(), sequence.blocks.end(), id) > 0;
           });
  }

  void Touch(const std::string& salt, const Tokens& tokens) {
    ++uses_;
    for (size_t count = 1; count * block_tokens_ <= tokens.size(); ++count) {
      Entry& entry = cached_.at(Key(salt, First(tokens, count)));
      entry.use = uses_;
      entry.last_use = now_;
    }
  }

  // Makes room as a scheduler would; nothing when there is none.
  absl::Status Allocate(uint32_t count, std::vector<BlockId>* blocks) {
    if (count > pool_.free_count()) RETURN_IF_ERROR(Evict(count - pool_.free_count()));
    auto allocated = pool_.Allocate(count);
    if (allocated.ok()) *blocks = *std::move(allocated);
    return absl::OkStatus();
  }

  Tokens First(const Tokens& tokens, size_t blocks) const {
    return Tokens(tokens.begin(), tokens.begin() + blocks * block_tokens_);
  }

  std::string Salt() { return Byte() % 4 == 0 ? "tenant" : ""; }

  // Mostly zeros, so that much is shared.
  Tokens RandomTokens(size_t count) {
    Tokens tokens;
    for (size_t i = 0; i < count; i += 8) {
      const uint8_t bits = Byte() & Byte();
      for (size_t j = i; j < std::min(count, i + 8); ++j) tokens.push_back(bits >> (j - i) & 1);
    }
    return tokens;
  }

  uint8_t Byte() {
    if (script_.empty()) return 0;
    const uint8_t byte = script_[0];
    script_.remove_prefix(1);
    return byte;
  }

  absl::Span<const uint8_t> script_;
  PrefixTreeScriptCounts& counts_;
  const uint8_t config_;
  const uint32_t block_tokens_;
  std::vector<BlockId> freed_;
  KvPool pool_;
  PrefixTree tree_;
  std::map<Key, Entry> cached_;
  std::vector<Sequence> sequences_;
  std::vector<BlockId> held_;
  PrefixStats stats_;
  uint64_t uses_ = 0;
  absl::Time now_ = absl::UnixEpoch();
};

}  // namespace

absl::Status RunPrefixTreeScript(absl::Span<const uint8_t> script, PrefixTreeScriptCounts* counts) {
  PrefixTreeScriptCounts unused;
  return Pair(script, counts != nullptr ? counts : &unused).Run();
}

}  // namespace lombard
