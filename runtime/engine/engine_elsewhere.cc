// Prefixes that lie in another instance's cache: read there, or copied here. One that is still being computed
// there is waited for, as among requests of one instance.
//
// A sequence that reads one holds a loan of it, in whose slots its first blocks lie. The rows of all readers
// travel in one message per layer, and the holder attends to the prefix once for them. When they have cost
// more bytes than its KV has, or gManager advises it, who knows of everybody's rows, one of the readers
// fetches the whole of it at the rate that is free beside decoding. It joins the cache here then, and every
// reader's table flips to it before the next step.
#include <algorithm>

#include "base/check.h"
#include "distattn/prefix_copy.h"
#include "runtime/engine/engine_internal.h"

namespace lombard {
namespace {

constexpr size_t kPrefixesRemembered = 1024;  // whose rows are counted; then the count starts anew
constexpr size_t kPrefixesTold = 8;           // to gManager; a guess

uint64_t Count(uint64_t name, uint64_t rows, std::map<uint64_t, uint64_t>* counts) {
  if (counts->size() >= kPrefixesRemembered && !counts->contains(name)) counts->clear();
  return (*counts)[name] += rows;
}

}  // namespace

bool Engine::TryReadElsewhere(Sequence& s, uint64_t cached_tokens, uint32_t blocks, absl::Time now) {
  const std::optional<SequenceRequest::PrefixHint>& hint = s.request.prefix;
  if (!hint.has_value() || !options_.lending || !rmanager_->MayAsk(hint->holder, now)) return false;
  const auto read =
      static_cast<uint32_t>(std::min<uint64_t>(hint->tokens, s.tokens.size() - 1) / options_.block_tokens);
  const uint64_t tokens = uint64_t{read} * options_.block_tokens;
  if (read == 0 || tokens < cached_tokens + options_.remote_prefix_min) return false;
  const uint32_t need = blocks - read;
  if (need > pool_->free_count() || !rmanager_->MayAdmit(s.id())) return false;
  s.table.AddSpare(*pool_->Allocate(need));
  s.phase = SequencePhase::kBorrowing;
  s.ticket = rmanager_->BorrowPrefix(s.id(), hint->holder, s.request.cache_salt,
                                     absl::MakeConstSpan(s.tokens).first(tokens), read, now);
  s.blocked_need = need;
  return true;
}

bool Engine::Computes(absl::string_view salt, absl::Span<const int32_t> tokens) const {
  const auto computes = [&](const SequencePtr& s) {
    if (s->blocked_since.has_value() || s->request.cache_salt != salt || s->tokens.size() < tokens.size() ||
        !std::equal(tokens.begin(), tokens.end(), s->tokens.begin())) {
      return false;
    }
    if (s->phase == SequencePhase::kRunning) return s->shares && s->computed() < tokens.size();
    // One that came just now, and asks nobody else: it is admitted in the next step.
    return s->phase == SequencePhase::kWaiting && !s->request.prefix.has_value() &&
           !s->request.lost_home.has_value();
  };
  return std::any_of(running_.begin(), running_.end(), computes) ||
         std::any_of(waiting_.begin(), waiting_.end(), computes);
}

std::optional<PrefixComing> Engine::StillComing(const Sequence& s, const BorrowRefused& refused,
                                                absl::Time now) const {
  if (!refused.coming.has_value()) return std::nullopt;
  const bool more = !s.coming.has_value() || *refused.coming > s.coming->blocks;
  const PrefixComing coming = more ? PrefixComing{.blocks = *refused.coming, .since = now} : *s.coming;
  return now < coming.since + options_.prefix_patience ? std::optional(coming) : std::nullopt;
}

bool Engine::ReadsElsewhere(const Sequence& s) {
  return s.elsewhere.has_value() && s.table.HasLoan(s.elsewhere->loan) && s.table.first_block() == 0;
}

void Engine::CountPrefixRows() {
  if (prefixes_ == nullptr || !options_.lending) return;
  hot_.clear();
  const auto add = [&](uint64_t name, uint32_t blocks, bool here, uint32_t rows) {
    Load::HotPrefix& prefix = hot_[name];
    prefix = {blocks, prefix.readers + 1, Count(name, rows, &prefix_rows_), prefix.here || here};
  };
  for (const Row& row : rows_) {
    const Sequence& s = *row.sequence;
    if (s.elsewhere.has_value() && s.elsewhere->lent) continue;  // no copy of it is wanted here
    if (s.elsewhere.has_value()) {
      Count(s.elsewhere->name, row.tokens, &rows_elsewhere_);
      add(s.elsewhere->name, s.elsewhere->blocks, /*here=*/false, row.tokens);
    } else if (s.reader.has_value()) {
      for (const PrefixNodeView& node : prefixes_->Path(*s.reader)) {
        const auto end = node.first_block + static_cast<uint32_t>(node.blocks.size());
        if (node.readers > 1) add(node.hash, end, /*here=*/true, row.tokens);
      }
    }
  }
  while (hot_.size() > kPrefixesTold) {
    hot_.erase(std::min_element(hot_.begin(), hot_.end(),
                                [](const auto& a, const auto& b) { return a.second.rows < b.second.rows; }));
  }
}

void Engine::BringPrefixesHome(absl::Time now) {
  const std::set<uint64_t> wanted = std::exchange(copies_wanted_, {});
  if (prefixes_ == nullptr) return;
  struct Readers {
    Sequence* longest = nullptr;  // that has most tokens to go
    bool comes = false;           // one of them fetches it
    bool absent = false;          // from the cache here
  };
  std::map<uint64_t, Readers> readers;  // by the prefix's name
  for (const SequencePtr& running : running_) {
    Sequence& s = *running;
    if (!s.elsewhere.has_value()) continue;
    const PrefixElsewhere prefix = *s.elsewhere;
    if (!s.table.HasLoan(prefix.loan)) {  // lost, or all of it has come
      s.elsewhere.reset();
      prefixes_copied_ += StartSharing(s, prefix.blocks, now);
      rows_elsewhere_.erase(prefix.name);
      continue;
    }
    if (prefix.lent) continue;
    Readers& all = readers[prefix.name];
    const bool comes = std::any_of(s.returns.begin(), s.returns.end(),
                                   [&](const LoanReturn& back) { return back.loan == prefix.loan; });
    all.comes |= comes;
    if (comes || (!all.absent && ReadHere(s, now))) continue;
    all.absent = true;
    const auto to_go = [](const Sequence& r) { return r.tokens_max() - r.tokens.size(); };
    if (all.longest == nullptr || to_go(s) > to_go(*all.longest)) all.longest = &s;
  }
  for (const auto& [name, all] : readers) {
    if (!options_.copy_prefixes || all.comes || all.longest == nullptr || rmanager_->view().claim.has_value())
      continue;
    const PrefixElsewhere& prefix = *all.longest->elsewhere;
    const double keys = static_cast<double>(prefix.blocks) * options_.block_tokens;
    const bool pays = CopyPays(static_cast<double>(rows_elsewhere_[name]), model_.row_keys, keys);
    if ((!pays && !wanted.contains(name)) || pool_->free_count() <= prefix.blocks) continue;
    copies_advised_ += !pays;
    TakeHome(prefix.loan, absl::InfiniteFuture(), now);
  }
}

// If the cache here has it by now.
bool Engine::ReadHere(Sequence& s, absl::Time now) {
  const PrefixElsewhere prefix = *s.elsewhere;
  const auto tokens = absl::MakeConstSpan(s.tokens).first(size_t{prefix.blocks} * options_.block_tokens);
  const PrefixMatch match = prefixes_->Match(s.request.cache_salt, tokens);
  if (match.blocks.size() < prefix.blocks) return false;
  s.reader = prefixes_->Pin(match, tokens.size(), now);
  for (BlockId id : match.blocks) pool_->Retain(id);
  s.table.BringHome(prefix.loan, match.blocks);
  RepayUnlessRead(prefix.loan, now);
  s.elsewhere.reset();
  StartSharing(s, prefix.blocks, now);
  return true;
}

}  // namespace lombard
