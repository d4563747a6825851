#include "rmanager/lent_ledger.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "base/check.h"
#include "base/status.h"

namespace lombard {

uint32_t LendableBlocksMax(uint32_t total, double reserve, double lent_max) {
  const uint32_t kept = static_cast<uint32_t>(std::ceil(reserve * total));
  return std::min(total - std::min(total, kept), static_cast<uint32_t>(lent_max * total));
}

LentLedger::LentLedger(const Options& options, KvPool* pool)
    : options_(options),
      pool_(pool),
      reserve_blocks_(static_cast<uint32_t>(std::ceil(options.reserve * pool->total_count()))),
      lent_blocks_max_(static_cast<uint32_t>(options.lent_max * pool->total_count())),
      epoch_(Value(options.incarnation) << 32),
      held_over_(pool, options.bug),
      hosted_(std::make_shared<HostedLoans>(HostedLoans{.epoch = epoch_})) {}

uint32_t LentLedger::lendable() const {
  if (draining_ && options_.bug != PlantedBug::kGrantWhileDraining) return 0;
  const uint32_t free = pool_->free_count();
  return std::min(free > reserve_blocks_ ? free - reserve_blocks_ : 0,
                  lent_blocks_max_ > lent_ ? lent_blocks_max_ - lent_ : 0);
}

uint32_t LentLedger::lendable_max() const {
  if (draining_) return 0;
  return LendableBlocksMax(pool_->total_count(), options_.reserve, options_.lent_max);
}

std::optional<Loan> LentLedger::Reserve(InstanceId debtor, uint64_t ticket, RequestId request,
                                        uint32_t blocks, uint32_t limit, absl::Time now) {
  if (const auto known = by_ticket_.find({debtor, ticket});
      known != by_ticket_.end() && options_.bug != PlantedBug::kDoubleGrant) {
    return entries_.at(known->second).slots->loan;
  }
  if (blocks > std::min(lendable(), limit)) return std::nullopt;
  absl::StatusOr<std::vector<BlockId>> ids = pool_->Allocate(blocks);
  CHECK_OK(ids.status());
  return AddEntry(debtor, ticket, request, *std::move(ids), now);
}

Loan LentLedger::AddEntry(InstanceId debtor, uint64_t ticket, RequestId request, std::vector<BlockId> blocks,
                          absl::Time now) {
  const Loan loan = NewLoan(debtor, request, static_cast<uint32_t>(blocks.size()));
  std::shared_ptr<const LoanSlots> slots(
      new LoanSlots{loan, std::move(blocks)},
      [bin = bin_, returns = options_.bug != PlantedBug::kFreeWhileRead](const LoanSlots* gone) {
        if (returns) {
          std::lock_guard lock(bin->mutex);
          bin->slots.emplace_back(gone->loan.id, gone->blocks);
        }
        delete gone;
      });
  Enter(std::move(slots), ticket, now);
  lent_ += loan.blocks;
  counters_.lent_max = std::max(counters_.lent_max, lent_);
  return loan;
}

std::optional<Loan> LentLedger::ReservePrefix(InstanceId debtor, uint64_t ticket, RequestId request,
                                              absl::string_view salt, absl::Span<const int32_t> tokens,
                                              uint32_t blocks, bool guard_bears, absl::Time now) {
  if (const auto known = by_ticket_.find({debtor, ticket}); known != by_ticket_.end())
    return entries_.at(known->second).slots->loan;
  if (!guard_bears || prefixes_ == nullptr ||
      tokens.size() != uint64_t{blocks} * prefixes_->space().block_tokens)
    return std::nullopt;
  const PrefixMatch match = prefixes_->Match(salt, tokens);
  if (match.blocks.size() < blocks) return std::nullopt;
  const PrefixReader reader = prefixes_->Pin(match, tokens.size(), now);
  if (pool_->free_count() < reserve_blocks_) {
    prefixes_->Abandon(reader);
    return std::nullopt;
  }
  for (BlockId id : match.blocks) pool_->Retain(id);
  if (options_.bug == PlantedBug::kEvictWhatOthersRead) UnreadPrefix(reader, match.blocks);
  Loan loan = NewLoan(debtor, request, blocks);
  loan.prefix = true;
  std::shared_ptr<const LoanSlots> slots(new LoanSlots{loan, match.blocks},
                                         [bin = bin_, reader](const LoanSlots* gone) {
                                           {
                                             std::lock_guard lock(bin->mutex);
                                             bin->prefixes.emplace_back(reader, gone->blocks);
                                           }
                                           delete gone;
                                         });
  Enter(std::move(slots), ticket, now);
  prefix_lent_ += blocks;
  return loan;
}

uint32_t LentLedger::PrefixBlocks(absl::string_view salt, absl::Span<const int32_t> tokens) const {
  return prefixes_ == nullptr ? 0 : static_cast<uint32_t>(prefixes_->Match(salt, tokens).blocks.size());
}

Loan LentLedger::NewLoan(InstanceId debtor, RequestId request, uint32_t blocks) {
  if (options_.bug == PlantedBug::kForgetEpoch && entries_.empty()) next_loan_ = 1;
  return {.id = MakeLoanId(options_.self, next_loan_++),
          .epoch = epoch_,
          .creditor = options_.self,
          .debtor = debtor,
          .request = request,
          .blocks = blocks};
}

void LentLedger::Enter(std::shared_ptr<const LoanSlots> slots, uint64_t ticket, absl::Time now) {
  const Loan& loan = slots->loan;
  by_ticket_[{loan.debtor, ticket}] = loan.id;
  entries_[loan.id] = {
      .slots = slots, .ticket = ticket, .state = LoanState::kReserved, .expiry = now + options_.lease};
}

LentLedger::Entries::iterator LentLedger::Find(InstanceId debtor, LoanId id, uint64_t epoch) {
  const auto it = entries_.find(id);
  if (it == entries_.end()) return it;
  const Loan& loan = it->second.slots->loan;
  const bool same_epoch = loan.epoch == epoch || options_.bug == PlantedBug::kForgetEpoch;
  return loan.debtor == debtor && same_epoch ? it : entries_.end();
}

bool LentLedger::Activate(InstanceId debtor, LoanId id, uint64_t epoch) {
  const auto it = Find(debtor, id, epoch);
  if (it == entries_.end()) return false;
  if (it->second.state == LoanState::kReserved) {
    it->second.state = LoanState::kActive;
    ++counters_.granted;
    counters_.prefixes += it->second.slots->loan.prefix;
    Publish();
  }
  return true;
}

void LentLedger::Repay(InstanceId debtor, LoanId id, uint64_t epoch) {
  const auto it = Find(debtor, id, epoch);
  if (it == entries_.end()) return;
  const bool was_active = it->second.state != LoanState::kReserved;
  ++(was_active ? counters_.repaid : counters_.withdrawn);
  End(it);
  if (was_active) Publish();
  Collect();
}

void LentLedger::NoteStored(InstanceId debtor, LoanId id, uint64_t epoch, uint32_t first_slot,
                            absl::Span<const SlotContent> contents) {
  const auto it = Find(debtor, id, epoch);
  if (it == entries_.end()) return;
  const uint32_t blocks = it->second.slots->loan.blocks;
  it->second.contents.resize(blocks);
  for (size_t i = 0; i < contents.size() && first_slot + i < blocks; ++i)
    it->second.contents[first_slot + i] = contents[i];
}

std::optional<Loan> LentLedger::Adopt(InstanceId debtor, uint64_t ticket, RequestId request,
                                      absl::Span<const uint64_t> names, absl::Time now,
                                      std::vector<uint32_t>* blocks) {
  auto known = by_ticket_.find({debtor, ticket});
  if (known == by_ticket_.end()) {
    const std::vector<HeldOver::Block> adopted =
        held_over_.Adopt(request, names, lent_blocks_max_ - std::min(lent_blocks_max_, lent_));
    if (adopted.empty()) return std::nullopt;
    std::vector<BlockId> ids;
    std::vector<std::optional<SlotContent>> contents;
    for (const HeldOver::Block& block : adopted) ids.push_back(block.id), contents.push_back(block.content);
    const Loan loan = AddEntry(debtor, ticket, request, std::move(ids), now);
    entries_.at(loan.id).contents = std::move(contents);
    known = by_ticket_.find({debtor, ticket});
  }
  const Entry& entry = entries_.at(known->second);
  for (const std::optional<SlotContent>& content : entry.contents) {
    if (content.has_value()) blocks->push_back(content->block);  // none: its ticket is of another loan
  }
  return entry.slots->loan;
}

bool LentLedger::AwaitsService(RequestId request) const {
  return std::any_of(parting_.begin(), parting_.end(),
                     [&](const auto& entry) { return entry.second.request == request; });
}

void LentLedger::DropDebtor(InstanceId debtor, absl::Time now) {
  bool dropped = false;
  for (auto it = entries_.begin(); it != entries_.end();) {
    if (it->second.slots->loan.debtor != debtor) {
      ++it;
      continue;
    }
    ++(it->second.state == LoanState::kReserved ? counters_.expired : counters_.lost);
    if (it->second.state == LoanState::kActive && !it->second.contents.empty()) {
      parting_[it->first] = {.request = it->second.slots->loan.request,
                             .contents = std::move(it->second.contents),
                             .until = now + options_.adopt_within};
    }
    it = End(it);
    dropped = true;
  }
  if (!dropped) return;
  ++epoch_;
  Publish();
  Collect();
}

void LentLedger::Recall(uint32_t blocks, RequestId wanted_for, absl::Time now) {
  uint32_t coming = 0, possible = 0;
  std::vector<Entry*> candidates;
  for (auto& [id, entry] : entries_) {
    if (entry.state == LoanState::kRecalled) coming += entry.slots->loan.blocks;
    if (!MayRecall(entry, now)) continue;
    candidates.push_back(&entry);
    possible += entry.slots->loan.blocks;
  }
  if (coming >= blocks || coming + possible < blocks) return;
  std::stable_sort(candidates.begin(), candidates.end(), [](const Entry* a, const Entry* b) {
    return b->slots->loan.request < a->slots->loan.request;
  });
  for (Entry* entry : candidates) {
    if (coming >= blocks) break;
    coming += entry->slots->loan.blocks;
    StartRecall(*entry, wanted_for, now);
  }
}

void LentLedger::RecallYoungest(RequestId wanted_for, absl::Time now) {
  std::optional<RequestId> youngest;
  for (const auto& [id, entry] : entries_) {
    if (MayRecall(entry, now)) youngest = std::max(youngest, std::optional(entry.slots->loan.request));
  }
  for (auto& [id, entry] : entries_) {
    if (MayRecall(entry, now) && entry.slots->loan.request == youngest) StartRecall(entry, wanted_for, now);
  }
}

void LentLedger::StartRecall(Entry& entry, RequestId wanted_for, absl::Time now) {
  entry.state = LoanState::kRecalled;
  entry.expiry = now + options_.recall_deadline;
  if (options_.bug == PlantedBug::kFreeOnRecall) entry.expiry = now;
  entry.next_retry = now;
  entry.wanted_for = wanted_for;
  ++counters_.recalled;
}

void LentLedger::Drain(absl::Time deadline) {
  draining_ = true;
  bool ended = false;
  for (auto it = entries_.begin(); it != entries_.end();) {
    Entry& entry = it->second;
    if (entry.state == LoanState::kReserved) {
      ++counters_.expired;
      it = End(it);
      ended = true;
      continue;
    }
    counters_.recalled += entry.state == LoanState::kActive;
    entry.state = LoanState::kRecalled;
    entry.expiry = deadline;
    entry.next_retry = absl::InfinitePast();
    entry.wanted_for = RequestId{};  // older than all: nobody may decline
    ++it;
  }
  if (ended) ++epoch_;
  Collect();
}

void LentLedger::DeclineRecall(InstanceId debtor, LoanId id, uint64_t epoch, absl::Time now) {
  const auto it = Find(debtor, id, epoch);
  if (it == entries_.end() || it->second.state != LoanState::kRecalled) return;
  Entry& entry = it->second;
  if (entry.wanted_for < entry.slots->loan.request) return;  // has no right to
  entry.state = LoanState::kActive;
  entry.next_retry = absl::InfiniteFuture();
  entry.recall_after = now + options_.recall_again;
}

std::vector<LentLedger::RecallDue> LentLedger::TakeRecallsDue(absl::Time now) {
  std::vector<RecallDue> due;
  for (auto& [id, entry] : entries_) {
    if (entry.state != LoanState::kRecalled || now < entry.next_retry) continue;
    entry.next_retry = now + options_.retry;
    due.push_back({entry.slots->loan, entry.expiry - now, entry.wanted_for});
  }
  return due;
}

std::optional<RequestId> LentLedger::recalls_for() const {
  std::optional<RequestId> oldest;
  for (const auto& [id, entry] : entries_) {
    if (entry.state == LoanState::kRecalled && (!oldest.has_value() || entry.wanted_for < *oldest))
      oldest = entry.wanted_for;
  }
  return oldest;
}

void LentLedger::Tick(absl::Time now) {
  bool ended = false, withdrawn = false;
  for (auto it = entries_.begin(); it != entries_.end();) {
    const LoanState state = it->second.state;
    const bool kept = options_.bug == PlantedBug::kNoExpiry && state == LoanState::kReserved;
    if (state == LoanState::kActive || now < it->second.expiry || kept) {
      ++it;
      continue;
    }
    if (state == LoanState::kReserved) {
      ++counters_.expired;
    } else {
      ++counters_.lost, ++counters_.overdue;
      withdrawn = true;
    }
    it = End(it);
    ended = true;
  }
  if (ended) ++epoch_;
  if (withdrawn) Publish();
  Collect();
  held_over_.Tick(now);
}

absl::Time LentLedger::NextDeadline() const {
  absl::Time next = held_over_.NextDeadline();
  for (const auto& [id, entry] : entries_) {
    if (entry.state != LoanState::kActive) next = std::min({next, entry.expiry, entry.next_retry});
  }
  return next;
}

void LentLedger::Restart(Incarnation next) {
  for (const auto& [id, entry] : entries_)
    ++(entry.state == LoanState::kReserved ? counters_.expired : counters_.lost);
  while (!entries_.empty()) End(entries_.begin());
  epoch_ = Value(next) << 32;
  Publish();
  parting_.clear();
  Collect();
  held_over_.Clear();
}

LentLedger::Entries::iterator LentLedger::End(Entries::iterator entry) {
  if (options_.bug == PlantedBug::kFreeWhileRead && !entry->second.slots->loan.prefix) {
    bin_->slots = {{entry->first, entry->second.slots->blocks}};
    Collect();
  }
  by_ticket_.erase({entry->second.slots->loan.debtor, entry->second.ticket});
  return entries_.erase(entry);
}

void LentLedger::Publish() {
  auto next = std::make_shared<HostedLoans>();
  next->epoch = epoch_;
  for (const auto& [id, entry] : entries_) {
    if (entry.state != LoanState::kReserved) next->loans.emplace(id, entry.slots);
  }
  std::shared_ptr<const HostedLoans> last = std::move(next);
  {
    std::lock_guard lock(hosted_mutex_);
    hosted_.swap(last);
  }
  // `last` may hold the final reference to slots; it goes here, outside the lock.
}

void LentLedger::Collect() {
  std::vector<std::pair<LoanId, std::vector<BlockId>>> returned;
  std::vector<std::pair<PrefixReader, std::vector<BlockId>>> read;
  {
    std::lock_guard lock(bin_->mutex);
    returned.swap(bin_->slots);
    read.swap(bin_->prefixes);
  }
  for (const auto& [reader, blocks] : read) {
    if (options_.bug != PlantedBug::kEvictWhatOthersRead) UnreadPrefix(reader, blocks);
    prefix_lent_ -= blocks.size();
  }
  for (const auto& [loan, blocks] : returned) {
    lent_ -= blocks.size();
    const auto parting = parting_.extract(loan);
    if (parting.empty()) {
      pool_->ReleaseAll(blocks);
      continue;
    }
    std::vector<HeldOver::Block> held;
    for (size_t i = 0; i < blocks.size(); ++i) {
      if (const std::optional<SlotContent>& content = parting.mapped().contents[i]; content.has_value()) {
        held.push_back({*content, blocks[i]});
      } else {
        pool_->Release(blocks[i]);
      }
    }
    held_over_.Keep(parting.mapped().request, std::move(held), parting.mapped().until);
  }
}

void LentLedger::UnreadPrefix(PrefixReader reader, const std::vector<BlockId>& blocks) {
  if (prefixes_ != nullptr) prefixes_->Abandon(reader);  // its hits are not those of an own request
  pool_->ReleaseAll(blocks);
}

std::shared_ptr<const HostedLoans> LentLedger::hosted() const {
  std::lock_guard lock(hosted_mutex_);
  return hosted_;
}

std::vector<std::shared_ptr<const LoanSlots>> LentLedger::slots() const {
  std::vector<std::shared_ptr<const LoanSlots>> slots;
  for (const auto& [id, entry] : entries_) slots.push_back(entry.slots);
  return slots;
}

absl::Status LentLedger::CheckInvariants() const {
  RETURN_IF_ERROR(pool_->CheckInvariants());
  uint64_t held = 0, prefix_held = 0, active = 0;
  std::set<BlockId> seen;
  const std::shared_ptr<const HostedLoans> hosted = this->hosted();
  for (const auto& [id, entry] : entries_) {
    const LoanSlots& slots = *entry.slots;
    (slots.loan.prefix ? prefix_held : held) += slots.blocks.size();
    active += entry.state != LoanState::kReserved;
    if (slots.blocks.size() != slots.loan.blocks || slots.loan.id != id) {
      return absl::InternalError(absl::StrCat("loan ", Value(id), " has ", slots.blocks.size(),
                                              " blocks, its record says ", slots.loan.blocks, " of loan ",
                                              Value(slots.loan.id)));
    }
    for (BlockId block : slots.blocks) {
      if (!slots.loan.prefix && !seen.insert(block).second)
        return absl::InternalError(absl::StrCat("block ", Value(block), " is lent twice"));
      if (pool_->references(block) == 0)
        return absl::InternalError(absl::StrCat("lent block ", Value(block), " is free"));
    }
    const auto ticket = by_ticket_.find({slots.loan.debtor, entry.ticket});
    if (ticket == by_ticket_.end() || ticket->second != id) {
      return absl::InternalError(absl::StrCat("loan ", Value(id), " is not found by its ticket"));
    }
    const bool published = hosted->loans.contains(id);
    if (published != (entry.state != LoanState::kReserved)) {
      return absl::InternalError(absl::StrCat(
          "loan ", Value(id), published ? " is published but not active" : " is active but not published"));
    }
  }
  if (by_ticket_.size() != entries_.size() || hosted->loans.size() != active) {
    return absl::InternalError(absl::StrCat("ledger has ", entries_.size(), " loans, ", by_ticket_.size(),
                                            " tickets, ", active, " active, ", hosted->loans.size(),
                                            " published"));
  }
  if (prefix_held > prefix_lent_) {
    return absl::InternalError(
        absl::StrCat(prefix_held, " blocks of prefixes in loans, ", prefix_lent_, " counted"));
  }
  if (held > lent_ || lent_ > lent_blocks_max_) {
    return absl::InternalError(
        absl::StrCat(held, " blocks in loans, ", lent_, " counted as lent, limit ", lent_blocks_max_));
  }
  if (counters_.granted != counters_.repaid + counters_.lost + active) {
    return absl::InternalError(absl::StrCat("granted ", counters_.granted, ", repaid ", counters_.repaid,
                                            ", lost ", counters_.lost, ", active ", active));
  }
  return absl::OkStatus();
}

}  // namespace lombard
