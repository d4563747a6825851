// The prefix cache of an engine: what an admission takes from it, what a step gives to it.
//
// A sequence that fits here reads what the tree has of its tokens and computes the rest; its own blocks go to
// the tree as they become full, so that those who came with it find them in the next step, and stay there
// when it ends. One that borrows gives it nothing more: its oldest blocks leave for the creditors, but for
// those that others read, which stay in the tree and are read with them.
#include <algorithm>
#include <map>
#include <set>

#include "runtime/engine/engine_internal.h"

namespace lombard {

bool Engine::SomeoneComputesMoreOf(const Sequence& s, uint64_t cached_tokens) const {
  const auto more = [&](const SequencePtr& r) {
    const bool prefills = r->phase == SequencePhase::kRunning && r->computed() + 1 < r->tokens.size();
    if (!r->shares || !prefills || r->blocked_since.has_value() ||
        r->request.cache_salt != s.request.cache_salt) {
      return false;
    }
    const size_t length = std::min(r->tokens.size(), s.tokens.size() - 1);
    const uint64_t common =
        std::mismatch(s.tokens.begin(), s.tokens.begin() + static_cast<int64_t>(length), r->tokens.begin())
            .first -
        s.tokens.begin();
    return common / options_.block_tokens * options_.block_tokens > cached_tokens;
  };
  return std::any_of(running_.begin(), running_.end(), more);
}

bool Engine::TryAdmitOverPrefix(Sequence& s, const PrefixMatch& match, uint32_t blocks, absl::Time now) {
  // The last token is computed in any case: its logits are wanted.
  const uint64_t cached = std::min<uint64_t>(match.tokens, s.tokens.size() - 1);
  const auto shared = static_cast<uint32_t>(cached / options_.block_tokens);
  const PrefixReader reader = prefixes_->Pin(match, cached, now);  // what is read cannot be evicted any more
  const uint32_t need = blocks - shared;
  if (need > pool_->free_count() || !rmanager_->MayAdmitLocally(s.id(), need, BlocksOfYoungerThanClaim())) {
    prefixes_->Abandon(reader);
    return false;
  }
  const std::vector<BlockId> read(match.blocks.begin(), match.blocks.begin() + shared);
  for (BlockId id : read) pool_->Retain(id);
  s.table.AddShared(read);
  s.table.AddSpare(*pool_->Allocate(need));
  if (cached % options_.block_tokens != 0) {
    // Copy on write of a partly equal block, unless it has just been evicted.
    const BlockId source = match.CopySource(shared);
    if (prefixes_->Has(source)) {
      const auto copied = static_cast<uint32_t>(cached % options_.block_tokens);
      s.table.Open(copied);
      mover_->Copy(source, s.table.LocalBlock(shared));
      s.table.Store(copied);
    }
  }
  s.reader = reader;
  s.shares = true;
  s.phase = SequencePhase::kRunning;
  s.blocked_since.reset();
  return true;
}

void Engine::ShareSpans(AttentionPlan* plan) const {
  // Who reads which node. Readers of a node read all its ancestors, so the counts fall along every path.
  std::map<PrefixNodeId, std::vector<int>> readers;
  std::vector<std::vector<PrefixNodeView>> paths(rows_.size());
  for (size_t i = 0; i < rows_.size(); ++i) {
    if (!rows_[i].sequence->reader.has_value()) continue;
    paths[i] = prefixes_->Path(*rows_[i].sequence->reader);
    for (const PrefixNodeView& node : paths[i]) readers[node.id].push_back(static_cast<int>(i));
  }
  // A node and its child with the same readers become one span: a span ends where a reader's path does. What
  // does not pay for all its readers is read with the next node by each group of that one.
  std::set<PrefixNodeId> planned;  // nodes that end a span of plan->shared
  for (size_t i = 0; i < rows_.size(); ++i) {
    size_t taken = 0;             // blocks of this sequence in shared spans
    std::vector<BlockId> blocks;  // of the span that is being put together
    for (size_t at = 0; at < paths[i].size();) {
      const std::vector<int>& group = readers[paths[i][at].id];
      if (group.size() < 2) break;
      for (; at < paths[i].size() && readers[paths[i][at].id] == group; ++at)
        blocks.insert(blocks.end(), paths[i][at].blocks.begin(), paths[i][at].blocks.end());
      const size_t count = blocks.size(), keys = count * options_.block_tokens;
      std::vector<int> rows;
      for (const int reader : group) rows.push_back(plan->sequences[reader].rows);
      if (!options_.sharing.Groups(static_cast<int64_t>(keys), rows)) continue;
      if (planned.insert(paths[i][at - 1].id).second) {
        plan->shared.push_back({.span = {.blocks = blocks,
                                         .first_position = static_cast<int>(taken * options_.block_tokens),
                                         .token_count = static_cast<int>(keys)},
                                .readers = group});
      }
      taken += count;
      blocks.clear();
    }
    if (taken == 0) continue;
    std::vector<AttentionSpan>& spans = plan->sequences[i].spans;
    LocalSpan& own = std::get<LocalSpan>(spans.front());
    own.blocks.erase(own.blocks.begin(), own.blocks.begin() + static_cast<int64_t>(taken));
    own.first_position += static_cast<int>(taken * options_.block_tokens);
    own.token_count -= static_cast<int>(taken * options_.block_tokens);
    if (own.token_count == 0) spans.erase(spans.begin());
  }
}

void Engine::ShareFullBlocks(Sequence& s, absl::Time now) {
  if (s.shares) ShareBlocks(s, s.computed() / options_.block_tokens, now);
}

void Engine::ShareBlocks(Sequence& s, uint32_t count, absl::Time now) {
  const uint32_t have = prefixes_->BlocksRead(*s.reader);
  if (count <= have) return;
  std::vector<BlockId> blocks;
  for (uint32_t block = have; block < count; ++block) blocks.push_back(s.table.LocalBlock(block));
  const auto tokens = absl::MakeConstSpan(s.tokens).subspan(size_t{have} * options_.block_tokens,
                                                            blocks.size() * options_.block_tokens);
  for (const PrefixTree::Duplicate& twin : prefixes_->Extend(*s.reader, tokens, blocks, now)) {
    pool_->Retain(twin.cached);
    s.table.ReplaceFull(twin.block, twin.cached);
    pool_->Release(twin.given);
  }
}

bool Engine::StartSharing(Sequence& s, uint32_t first, absl::Time now) {
  const BlockTable& table = s.table;
  if (table.first_block() > 0) return false;
  for (uint32_t block = 0; block < first; ++block) {
    if (table.place(block).state != BlockPlace::State::kFull) return false;
  }
  if (!s.reader.has_value()) s.reader = prefixes_->Pin(prefixes_->Match(s.request.cache_salt, {}), 0, now);
  s.shares = table.loans().empty() && table.missing_blocks() == 0;
  s.shares ? ShareFullBlocks(s, now) : ShareBlocks(s, first, now);
  return true;
}

void Engine::StopSharing(Sequence& s) {
  if (s.shares) prefixes_->Withdraw(*s.reader);
  s.shares = false;
}

uint32_t Engine::SharedBlocks(const Sequence& s) const {
  if (ReadsElsewhere(s)) return s.elsewhere->blocks;
  if (!s.reader.has_value()) return 0;
  return s.shares ? prefixes_->BlocksAfterWithdraw(*s.reader) : prefixes_->BlocksRead(*s.reader);
}

uint32_t Engine::PrivateBlocks(const Sequence& s) const {
  // Of a prefix that comes home, those that are here.
  const uint32_t away = ReadsElsewhere(s) ? s.table.loan(s.elsewhere->loan).blocks : 0;
  return s.table.full_blocks() - (SharedBlocks(s) - away);
}

void Engine::LeavePrefix(Sequence& s, absl::Time now) {
  if (s.reader.has_value()) prefixes_->Unpin(*s.reader, now);
  s.reader.reset();
  s.shares = false;
}

}  // namespace lombard
