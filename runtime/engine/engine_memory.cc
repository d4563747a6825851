// Who gets memory, and what leaves: admission, room for the next tokens, preemption, blocks on their way into
// loans.
#include <algorithm>

#include "base/check.h"
#include "base/status.h"
#include "runtime/engine/engine_internal.h"

namespace lombard {
namespace {

// Blocks borrowed at a time by a decode that outgrew its reservation. A guess: with 32 tokens a block, a loan
// every 128 steps.
constexpr uint32_t kGrowthBlocks = 4;
// Of its own pool a debtor leaves this share to short requests as long as creditors can lend the difference.
constexpr uint32_t kShortRequestShare = 4;  // a quarter; a guess
// Each refusal looks its prompt up in the prefix cache; thousands may wait. A guess: well below a ms of a
// step.
constexpr uint32_t kRefusalsPerStep = 64;
constexpr absl::Duration kRetryAfter = absl::Milliseconds(5);  // of a sequence without memory; a guess

}  // namespace

void Engine::FlipStoredBlocks() {
  for (const SequencePtr& s : running_) {
    if (!s->exports.empty()) FlipStoredBlocks(*s);
  }
}

void Engine::FlipStoredBlocks(Sequence& s) {
  std::erase_if(s.exports, [&](const BlockExport& part) {
    const KvTransfer transfer = mover_->transfer(part.transfer);
    if (!transfer.done() && options_.bug != PlantedBug::kFlipBeforeStored) return false;
    mover_->ForgetTransfer(part.transfer);
    if (!transfer.status.ok()) {  // whether the loan is lost is rmanager's to say
      for (const BlockTable::Transit& d : part.blocks) s.table.Stay(d);
      s.table.CloseLoan(part.blocks[0].loan);
      return true;
    }
    TellStored(s, part);
    for (const BlockTable::Transit& d : part.blocks) {
      s.table.Arrive(d);
      CHECK_EQ(pool_->references(d.id), 1u)
          << "block " << Value(d.id) << " of " << s.id() << " is read by others";
      if (options_.poison_freed) mover_->Poison(d.id);
    }
    if (s.move.has_value() && !s.move->ticket.has_value()) {
      // What the move was for; room is made again when it is needed.
      pool_->ReleaseAll(s.table.TakeSpare());
      s.move->moved += static_cast<uint32_t>(part.blocks.size());
    }
    return true;
  });
  EndFinishedMove(s);
}

void Engine::EndFinishedMove(Sequence& s) {
  if (!s.move.has_value() || s.move->ticket.has_value()) return;
  const bool nothing_goes = s.exports.empty() && s.table.free_lent_slots() == 0;
  if (nothing_goes || s.move->moved >= s.move->blocks) EndMove(s);
}

void Engine::EndMove(Sequence& s) {
  if (s.move.has_value()) rmanager_->FinishMove(s.move->plan_id, s.move->moved);
  s.move.reset();
}

void Engine::Admit(absl::Time now) {
  uint32_t refusals = 0;
  for (size_t i = 0; i < waiting_.size() && running_.size() < options_.max_batch_size;) {
    Sequence& s = *waiting_[i];
    if (now < s.retry_at) {
      ++i;
      continue;
    }
    if (!TryAdmit(s, now)) {
      if (++refusals == kRefusalsPerStep) break;
      ++i;
      continue;
    }
    const auto at = std::lower_bound(running_.begin(), running_.end(), s.id(),
                                     [](const SequencePtr& r, const RequestId& id) { return r->id() < id; });
    running_.insert(at, std::move(waiting_[i]));
    waiting_.erase(waiting_.begin() + i);
  }
}

uint32_t Engine::BlocksOfYoungerThanClaim() const {
  const std::optional<ClusterFacts::Claim>& claim = rmanager_->view().claim;
  uint32_t blocks = 0;
  for (const SequencePtr& s : running_) {
    if (claim.has_value() && claim->request < s->id())
      blocks += s->table.local_blocks() + s->table.spare_blocks();
  }
  return blocks;
}

bool Engine::TryAdmit(Sequence& s, absl::Time now) {
  const uint64_t tokens = std::min<uint64_t>(s.tokens.size() + options_.headroom_tokens, s.tokens_max());
  const uint32_t need = BlocksFor(tokens);
  if (s.request.lost_home.has_value() && options_.lending) {
    if (!rmanager_->MayAdmit(s.id())) return Block(s, need, now);
    if (StartAdoption(s, now)) return true;
  }
  if (prefixes_ != nullptr) {
    const PrefixMatch match = prefixes_->Match(s.request.cache_salt, s.tokens);
    if (SomeoneComputesMoreOf(s, match.tokens)) return false;
    if (TryReadLent(s, match.blocks.size(), need)) return true;
    if (TryReadElsewhere(s, match.tokens, need, now)) return true;
    if (TryAdmitOverPrefix(s, match, need, now)) return true;
  }
  // What would fit at home waits a little for the planner to move something longer away, then borrows itself.
  const bool patient =
      need <= pool_->total_count() && now < s.blocked_since.value_or(now) + options_.borrow_patience;
  return TakeMemory(s, need, patient, now) || Block(s, need, now);
}

bool Engine::TakeMemory(Sequence& s, uint32_t need, bool patient, absl::Time now) {
  const uint32_t free = pool_->free_count();
  if (need <= free) {
    if (!rmanager_->MayAdmitLocally(s.id(), need, BlocksOfYoungerThanClaim())) return false;
    s.table.AddSpare(*pool_->Allocate(need));
    s.phase = SequencePhase::kRunning;
    s.blocked_since.reset();
    return true;
  }
  const uint32_t lendable = options_.lending ? ClusterLendable(s.id()) : 0;
  if (patient || free == 0 || need - free > lendable || !rmanager_->MayAdmit(s.id())) return false;
  const uint32_t could_keep = std::min(pool_->total_count() / kShortRequestShare, lendable - (need - free));
  const uint32_t local = std::max<uint32_t>(1, free - std::min(could_keep, free - 1));
  s.table.AddSpare(*pool_->Allocate(local));
  s.phase = SequencePhase::kBorrowing;
  s.ticket = rmanager_->Borrow(s.id(), need - local, Purpose::kAdmission, now);
  s.blocked_need = need;
  return true;
}

bool Engine::Block(Sequence& s, uint32_t blocks, absl::Time now) {
  if (!s.blocked_since.has_value()) s.blocked_since = now;
  s.blocked_need = blocks;
  s.retry_at = std::max(s.retry_at, now + kRetryAfter);
  return false;
}

uint32_t Engine::LendableAt(InstanceId instance, const RequestId& request) const {
  return rmanager_->view().instances[Value(instance)].LendableTo(request);
}

uint32_t Engine::ClusterLendable(const RequestId& request) const {
  uint32_t blocks = 0;
  for (size_t i = 0; i < rmanager_->view().instances.size(); ++i) {
    if (InstanceId(i) != options_.self) blocks += LendableAt(InstanceId(i), request);
  }
  return blocks;
}

void Engine::HandleEvent(const RManager::Event& event, absl::Time now) {
  if (const auto* borrowed = std::get_if<Borrowed>(&event)) {
    if (prefix_move_.has_value() && prefix_move_->ticket == borrowed->ticket)
      return SendPrefix(*borrowed, now);
    Sequence* s = Find(borrowed->request);
    if (s != nullptr && s->adoptions.erase(borrowed->ticket) > 0) return Adopt(*s, *borrowed, now);
    const bool moves = s != nullptr && s->move.has_value() && s->move->ticket == borrowed->ticket;
    if (s == nullptr || (!moves && s->ticket != borrowed->ticket)) {  // preempted or finished meanwhile
      for (const Loan& loan : borrowed->loans) {
        if (rmanager_->borrowed().contains(loan.id)) rmanager_->Repay(loan.id, now);
      }
      return;
    }
    StopSharing(*s);
    for (const Loan& loan : borrowed->loans) {
      if (!rmanager_->borrowed().contains(loan.id)) continue;  // lost meanwhile
      if (loan.prefix) {
        prefixes_awaited_ += s->coming.has_value();
        s->table.AddLent(loan.id, loan.epoch, loan.creditor, loan.blocks);
        s->elsewhere = {.loan = loan.id, .name = Names(*s, loan.blocks).back(), .blocks = loan.blocks};
      } else {
        s->table.AddLoan(loan.id, loan.epoch, loan.creditor, loan.blocks);
      }
    }
    if (moves) {
      s->move->ticket.reset();
    } else {
      s->ticket.reset();
      s->blocked_since.reset();
      s->phase = SequencePhase::kRunning;
    }
  } else if (const auto* refused = std::get_if<BorrowRefused>(&event)) {
    if (prefix_move_.has_value() && prefix_move_->ticket == refused->ticket) return EndPrefixMove(0, now);
    Sequence* s = Find(refused->request);
    if (s == nullptr || s->adoptions.erase(refused->ticket) > 0) return;
    if (s->move.has_value() && s->move->ticket == refused->ticket) s->move.reset();
    if (s->ticket != refused->ticket) return;
    s->ticket.reset();
    if (refused->purpose == Purpose::kPrefix) {
      const std::optional<PrefixComing> coming = StillComing(*s, *refused, now);
      Preempt(*s, now);
      if (coming.has_value()) {
        s->coming = coming;
        s->retry_at = refused->retry_after;
        s->blocked_since.reset();  // it is not memory that it lacks
      } else {
        s->request.prefix.reset();  // it is computed here
        s->retry_at = now;
      }
      return ReportLoad();
    }
    s->retry_at = refused->retry_after;
    if (!s->returns.empty() && s->table.Room() > 0) return;  // asked for what comes home; it runs meanwhile
    Block(*s, s->phase == SequencePhase::kBorrowing ? s->blocked_need : kGrowthBlocks, now);
    // All or nothing: an admission gives its local blocks back too. A running one gives way unless it is the
    // oldest of the cluster.
    if (s->phase == SequencePhase::kBorrowing || !rmanager_->IsOldest(s->id())) Preempt(*s, now);
  } else if (const auto* wanted = std::get_if<MoveWanted>(&event)) {
    if (StartPrefixMove(*wanted, now)) return;
    Sequence* s = Find(wanted->request);
    const bool can = s != nullptr && s->phase == SequencePhase::kRunning && !s->move.has_value() &&
                     s->exports.empty() && s->table.free_lent_slots() == 0 && PrivateBlocks(*s) > 0;
    const std::optional<uint64_t> ticket = can ? rmanager_->StartMove(wanted->plan_id, now) : std::nullopt;
    if (ticket.has_value()) {
      s->move = BlockMove{.plan_id = wanted->plan_id, .ticket = ticket, .blocks = wanted->blocks};
    } else {
      rmanager_->RefuseMove(wanted->plan_id);
    }
  } else if (const auto* copy = std::get_if<CopyWanted>(&event)) {
    copies_wanted_.insert(copy->name);
  } else if (const auto* recall = std::get_if<RecallWanted>(&event)) {
    GiveBack(*recall, now);
  } else if (const auto* lost = std::get_if<LoanLost>(&event)) {
    LoseLoan(lost->loan, now);
  }
  ReportLoad();
}

uint32_t Engine::MakeRoom(Sequence& s, uint32_t wanted, absl::Time now) {
  const uint32_t missing = s.table.missing_blocks();
  const auto room = [&] { return std::min(wanted, s.table.Room()); };
  if (missing > 0 && room() < wanted) {  // nothing was reserved for what was lost
    s.table.AddSpare(*pool_->Allocate(std::min(BlocksFor(wanted - room()), pool_->free_count())));
  }
  while (room() == 0) {
    if (auto block = pool_->Allocate(1); block.ok()) {
      s.table.AddSpare(*block);
      continue;
    }
    // Its blocks that others read when it began to borrow; nobody may by now.
    if (s.reader.has_value() && !s.shares) {
      const uint32_t before = prefixes_->BlocksRead(*s.reader);
      if (prefixes_->Withdraw(*s.reader) < before) continue;
    }
    if (!s.exports.empty()) return 0;  // its own blocks come back when the creditor has stored them
    const uint32_t full = PrivateBlocks(s);
    if (full > 0 && s.table.free_lent_slots() > 0) {
      ExportFullBlocks(s, std::max(missing, 1u));
      return 0;
    }
    // Who lost something asks the cluster first, then takes from the younger ones here.
    const bool asks_first = missing > 0 && !s.blocked_since.has_value() && options_.lending && full > 0;
    if (!asks_first && PreemptYoungerThan(s, now)) continue;
    if (!options_.lending || full == 0) {
      // Nothing of it can be lent and nobody here is younger: give way, unless nobody else would make room.
      if (running_.size() > 1 || missing > 0) Preempt(s, now);
      return 0;
    }
    if (!s.ticket.has_value() && now >= s.retry_at) {
      const uint32_t left = BlocksFor(s.tokens_max()) - BlocksFor(s.computed());
      const uint32_t blocks = missing > 0 ? missing : std::clamp<uint32_t>(left, 1, kGrowthBlocks);
      s.ticket = rmanager_->Borrow(s.id(), blocks, Purpose::kGrowth, now);
    }
    return 0;
  }
  return room();
}

bool Engine::PreemptYoungerThan(const Sequence& s, absl::Time now) {
  for (auto it = running_.rbegin(); it != running_.rend() && s.id() < (*it)->id(); ++it) {
    if ((*it)->finished || (*it)->table.local_blocks() + (*it)->table.spare_blocks() == 0) continue;
    Preempt(**it, now);
    return true;
  }
  return false;
}

void Engine::Preempt(Sequence& s, absl::Time now) {
  const bool was_running = s.phase == SequencePhase::kRunning;
  if (s.table.missing_blocks() > 0) {
    ++recovery_.preemptions;
  } else {
    s.reached = 0;
  }
  ReleaseMemory(s, now);
  if (was_running) ++s.preemptions, ++preemptions_;
  if (!s.blocked_since.has_value()) s.blocked_since = now;
  s.blocked_need = BlocksFor(s.tokens.size());
  BackToWaiting(s);
}

void Engine::BackToWaiting(Sequence& s) {
  s.phase = SequencePhase::kWaiting;
  const auto from =
      std::find_if(running_.begin(), running_.end(), [&](const SequencePtr& r) { return r.get() == &s; });
  CHECK(from != running_.end());
  const auto to = std::lower_bound(waiting_.begin(), waiting_.end(), s.id(),
                                   [](const SequencePtr& w, const RequestId& id) { return w->id() < id; });
  waiting_.insert(to, std::move(*from));
  running_.erase(from);
}

void Engine::ReleaseMemory(Sequence& s, absl::Time now) {
  for (const auto* under_way : {&s.exports, &s.imports}) {
    for (const BlockExport& part : *under_way) mover_->ForgetTransfer(part.transfer);
  }
  s.exports.clear(), s.imports.clear(), s.returns.clear();
  if (prefix_move_.has_value() && prefix_move_->request == s.id()) EndPrefixMove(0, now);
  EndMove(s);
  s.ticket.reset();
  s.adoptions.clear();
  const std::optional<PrefixElsewhere> elsewhere = std::exchange(s.elsewhere, std::nullopt);
  s.coming.reset();
  LeavePrefix(s, now);
  pool_->ReleaseAll(s.table.Clear());
  rmanager_->RepayAll(s.id(), now);  // loans, and borrowings under way
  if (elsewhere.has_value()) RepayUnlessRead(elsewhere->loan, now);
}

void Engine::PlanExports() {
  const uint32_t block_tokens = options_.block_tokens;
  move_credit_tokens_ = std::min(move_credit_tokens_ + options_.decode_move_tokens,
                                 2 * block_tokens + options_.decode_move_tokens);
  for (Row& row : rows_) {
    Sequence& s = *row.sequence;
    if (s.table.free_lent_slots() == 0) continue;
    uint32_t count = PrivateBlocks(s) + (s.computed() + row.tokens) / block_tokens -
                     s.computed() / block_tokens;  // full ones, once the step is done
    if (count == 0) continue;
    // Prefill pushes all it can. A decode is bound by the rate at which moving is free, unless it is about to
    // run out of room.
    const bool hurries = row.tokens > 1 || s.table.Room() < row.tokens + block_tokens;
    if (!hurries) count = std::min(count, move_credit_tokens_ / block_tokens);
    if (count == 0) continue;
    const auto departures = s.table.NextDepartures(count, row.tokens, SharedBlocks(s));
    if (!hurries) move_credit_tokens_ -= static_cast<uint32_t>(departures.size()) * block_tokens;
    row.exports = MakeTransfers(departures);
    for (const BlockExport& part : row.exports) work_.sends.push_back(SlotsOf(s, part));
  }
}

std::vector<BlockExport> Engine::MakeTransfers(const std::vector<BlockTable::Transit>& transits) {
  std::vector<BlockExport> parts;
  for (const BlockTable::Transit& t : transits) {
    const bool goes_on = !parts.empty() && parts.back().blocks.back().loan == t.loan &&
                         parts.back().blocks.back().slot + 1 == t.slot;
    if (!goes_on) parts.push_back({.transfer = next_transfer_++, .blocks = {}});
    parts.back().blocks.push_back(t);
  }
  return parts;
}

KvSlots Engine::SlotsOf(const Sequence& s, const BlockExport& part) {
  const TableLoan& loan = s.table.loan(part.blocks[0].loan);
  KvSlots slots{.transfer = part.transfer,
                .creditor = static_cast<int>(Value(loan.creditor)),
                .loan = loan.id,
                .epoch = loan.epoch,
                .first_slot = part.blocks[0].slot,
                .blocks = {}};
  for (const BlockTable::Transit& t : part.blocks) slots.blocks.push_back(t.id);
  return slots;
}

void Engine::Depart(Sequence& s, BlockExport part) {
  for (const BlockTable::Transit& d : part.blocks) s.table.Leave(d);
  s.exports.push_back(std::move(part));
}

void Engine::ExportFullBlocks(Sequence& s, uint32_t count) {
  for (BlockExport& part : MakeTransfers(s.table.NextDepartures(count, 0, SharedBlocks(s)))) {
    mover_->Send(SlotsOf(s, part));
    Depart(s, std::move(part));
  }
}

void Engine::LoseLoan(const Loan& loan, absl::Time now) {
  if (prefix_move_.has_value() && prefix_move_->loan == loan.id) return EndPrefixMove(0, now);
  for (const RequestId& reader : ReadersOf(loan.id)) LoseLoan(*Find(reader), loan, now);
}

void Engine::LoseLoan(Sequence& s, const Loan& loan, absl::Time now) {
  for (auto* under_way : {&s.exports, &s.imports}) {
    std::erase_if(*under_way, [&](const BlockExport& part) {
      const bool of_it = part.blocks[0].loan == loan.id;
      if (of_it) mover_->ForgetTransfer(part.transfer);
      return of_it;
    });
  }
  const uint32_t lost = s.table.LoseLoan(loan.id);
  if (loan.prefix) s.request.prefix.reset();
  EndFinishedMove(s);
  if (lost == 0) return;
  s.recovers = true;
  ++recovery_.loans_lost;
  recovery_.blocks_lost += lost;
  // What the first lost token saw may be behind the window by now, and dropped.
  const int visible = AttentionShape::FirstVisible(static_cast<int>(s.computed()), window_max_);
  if (static_cast<uint32_t>(visible) < s.table.first_block() * options_.block_tokens) Preempt(s, now);
}

// A loan that its creditor calls back comes home where there is room for it, here or at others.
void Engine::GiveBack(const RecallWanted& recall, absl::Time now) {
  const LoanId loan = recall.loan.id;
  if (prefix_move_.has_value() && prefix_move_->loan == loan) return EndPrefixMove(0, now);
  const std::vector<RequestId> readers = ReadersOf(loan);
  if (readers.empty()) return rmanager_->Repay(loan, now);
  Sequence* s = Find(readers.front());
  if (s->phase != SequencePhase::kRunning) return Preempt(*s, now);  // adopted, and not yet in use
  if (options_.bug == PlantedBug::kUseRepaid) return rmanager_->Repay(loan, now);
  const uint32_t all = ClusterLendable(s->id());
  const uint32_t elsewhere = all - std::min(all, LendableAt(recall.loan.creditor, s->id()));
  if (s->table.loan(loan).blocks <= pool_->free_count() + elsewhere) {
    TakeHome(loan, now + (recall.deadline - now) / 2, now);  // time is left for the Repay
  } else if (recall.may_decline && readers.front() <= recall.loan.request) {
    rmanager_->DeclineRecall(loan);
  } else {
    for (const RequestId& reader : readers) Preempt(*Find(reader), now);  // the last one repays
  }
}

absl::Time Engine::NextRetry() const {
  absl::Time next = absl::InfiniteFuture();
  for (const auto* list : {&waiting_, &running_}) {
    for (const SequencePtr& s : *list) {
      const bool waits = s->coming.has_value() && s->phase == SequencePhase::kWaiting;
      if (s->blocked_since.has_value() || waits) next = std::min(next, s->retry_at);
    }
  }
  return next;
}

}  // namespace lombard
