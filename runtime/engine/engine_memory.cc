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

absl::Status Engine::FlipStoredBlocks() {
  for (const SequencePtr& s : running_) {
    while (!s->exports.empty()) {
      const BlockExport oldest = s->exports.front();
      const KvTransfer transfer = mover_->transfer(oldest.transfer);
      if (!transfer.status.ok())
        return Annotate(transfer.status, absl::StrCat("moving KV of ", ToString(s->id())));
      if (!transfer.done()) break;
      std::vector<BlockId> freed;
      for (uint32_t i = 0; i < oldest.blocks; ++i)
        freed.push_back(s->table.LocalBlock(s->table.first_local() + i));
      s->table.FlipToLent(oldest.blocks);
      for (BlockId id : freed) {
        if (pool_->references(id) > 1) {  // others read on
          s->table.DropSpare(id);
          pool_->Release(id);
        } else if (options_.poison_freed) {
          mover_->Poison(id);
        }
      }
      mover_->ForgetTransfer(oldest.transfer);
      s->exports.pop_front();
      if (s->move.has_value() && !s->move->ticket.has_value()) {
        pool_->ReleaseAll(
            s->table.TakeSpare());  // what the move was for; room is made again when it is needed
        s->move->moved += oldest.blocks;
        if (s->move->moved >= s->move->blocks) EndMove(*s);
      }
    }
  }
  return absl::OkStatus();
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
      blocks += static_cast<uint32_t>(s->table.AllLocal().size());
  }
  return blocks;
}

bool Engine::TryAdmit(Sequence& s, absl::Time now) {
  const uint64_t tokens = std::min<uint64_t>(s.tokens.size() + options_.headroom_tokens, s.tokens_max());
  const uint32_t need = BlocksFor(tokens), free = pool_->free_count();
  if (prefixes_ != nullptr) {
    const PrefixMatch match = prefixes_->Match(s.request.cache_salt, s.tokens);
    if (SomeoneComputesMoreOf(s, match.tokens)) return false;
    if (TryAdmitOverPrefix(s, match, need, now)) return true;
  }
  if (need <= free) {
    if (!rmanager_->MayAdmitLocally(s.id(), need, BlocksOfYoungerThanClaim())) return Block(s, need, now);
    s.table.AddSpare(*pool_->Allocate(need));
    s.phase = SequencePhase::kRunning;
    s.blocked_since.reset();
    return true;
  }
  // What would fit at home waits a little for the planner to move something longer away, then borrows itself.
  const bool patient =
      need <= pool_->total_count() && now < s.blocked_since.value_or(now) + options_.borrow_patience;
  const uint32_t lendable = options_.lending ? ClusterLendable() : 0;
  if (patient || free == 0 || need - free > lendable || !rmanager_->MayAdmit(s.id()))
    return Block(s, need, now);
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

uint32_t Engine::ClusterLendable() const {
  uint32_t blocks = 0;
  const std::vector<ClusterFacts::Instance>& instances = rmanager_->view().instances;
  for (size_t i = 0; i < instances.size(); ++i) {
    if (InstanceId(i) != options_.self) blocks += instances[i].lendable;
  }
  return blocks;
}

void Engine::HandleEvent(const RManager::Event& event, absl::Time now) {
  if (const auto* borrowed = std::get_if<Borrowed>(&event)) {
    Sequence* s = Find(borrowed->request);
    const bool moves = s != nullptr && s->move.has_value() && s->move->ticket == borrowed->ticket;
    if (s == nullptr || (!moves && s->ticket != borrowed->ticket)) {  // preempted or finished meanwhile
      for (const Loan& loan : borrowed->loans) rmanager_->Repay(loan.id, now);
      return;
    }
    StopSharing(*s);
    for (const Loan& loan : borrowed->loans)
      s->table.AddLoan(loan.id, loan.epoch, loan.creditor, loan.blocks);
    if (moves) {
      s->move->ticket.reset();
    } else {
      s->ticket.reset();
      s->blocked_since.reset();
      s->phase = SequencePhase::kRunning;
    }
  } else if (const auto* refused = std::get_if<BorrowRefused>(&event)) {
    Sequence* s = Find(refused->request);
    if (s == nullptr) return;
    if (s->move.has_value() && s->move->ticket == refused->ticket) s->move.reset();
    if (s->ticket != refused->ticket) return;
    s->ticket.reset();
    s->retry_at = refused->retry_after;
    Block(*s, s->phase == SequencePhase::kBorrowing ? s->blocked_need : kGrowthBlocks, now);
    // All or nothing: an admission gives its local blocks back too. A running one gives way unless it is the
    // oldest of the cluster.
    if (s->phase == SequencePhase::kBorrowing || !rmanager_->IsOldest(s->id())) Preempt(*s, now);
  } else if (const auto* wanted = std::get_if<MoveWanted>(&event)) {
    Sequence* s = Find(wanted->request);
    const bool can = s != nullptr && s->phase == SequencePhase::kRunning && !s->move.has_value() &&
                     s->exports.empty() && s->table.free_lent_slots() == 0 &&
                     s->computed / options_.block_tokens > s->table.first_local();
    const std::optional<uint64_t> ticket = can ? rmanager_->StartMove(wanted->plan_id, now) : std::nullopt;
    if (ticket.has_value()) {
      s->move = BlockMove{.plan_id = wanted->plan_id, .ticket = ticket, .blocks = wanted->blocks};
    } else {
      rmanager_->RefuseMove(wanted->plan_id);
    }
  }
  ReportLoad();
}

uint32_t Engine::MakeRoom(Sequence& s, uint32_t wanted, absl::Time now) {
  const auto room = [&] { return std::min<uint64_t>(wanted, s.table.TokenCapacity() - s.computed); };
  while (room() == 0) {
    if (auto block = pool_->Allocate(1); block.ok()) {
      s.table.AddSpare(*block);
      continue;
    }
    if (!s.exports.empty()) return 0;  // its own blocks come back when the creditor has stored them
    const uint32_t full = s.computed / options_.block_tokens -
                          std::min(s.computed / options_.block_tokens, s.table.first_local());
    if (full > 0 && s.table.free_lent_slots() > 0) {
      auto sent = ExportFullBlocks(s, 1);
      if (!sent.ok()) pending_error_ = sent.status();
      if (!sent.ok() || *sent) return 0;
    }
    if (PreemptYoungerThan(s, now)) continue;
    if (!options_.lending || full == 0) {
      // Nothing of it can be lent and nobody here is younger: give way, unless nobody else would make room.
      if (running_.size() > 1) Preempt(s, now);
      return 0;
    }
    if (!s.ticket.has_value() && now >= s.retry_at) {
      const uint32_t left = BlocksFor(s.tokens_max()) - BlocksFor(s.computed);
      s.ticket =
          rmanager_->Borrow(s.id(), std::clamp<uint32_t>(left, 1, kGrowthBlocks), Purpose::kGrowth, now);
    }
    return 0;
  }
  return static_cast<uint32_t>(room());
}

bool Engine::PreemptYoungerThan(const Sequence& s, absl::Time now) {
  for (auto it = running_.rbegin(); it != running_.rend() && s.id() < (*it)->id(); ++it) {
    if ((*it)->finished || (*it)->table.AllLocal().empty()) continue;
    Preempt(**it, now);
    return true;
  }
  return false;
}

void Engine::Preempt(Sequence& s, absl::Time now) {
  const bool was_running = s.phase == SequencePhase::kRunning;
  ReleaseMemory(s, now);
  s.phase = SequencePhase::kWaiting;
  s.computed = 0;
  if (was_running) ++s.preemptions, ++preemptions_;
  const auto from =
      std::find_if(running_.begin(), running_.end(), [&](const SequencePtr& r) { return r.get() == &s; });
  CHECK(from != running_.end());
  const auto to = std::lower_bound(waiting_.begin(), waiting_.end(), s.id(),
                                   [](const SequencePtr& w, const RequestId& id) { return w->id() < id; });
  if (!s.blocked_since.has_value()) s.blocked_since = now;
  s.blocked_need = BlocksFor(s.tokens.size());
  waiting_.insert(to, std::move(*from));
  running_.erase(from);
}

void Engine::ReleaseMemory(Sequence& s, absl::Time now) {
  for (const BlockExport& e : s.exports) mover_->ForgetTransfer(e.transfer);
  s.exports.clear();
  EndMove(s);
  s.ticket.reset();
  LeavePrefix(s, now);
  pool_->ReleaseAll(s.table.Clear());
  rmanager_->RepayAll(s.id(), now);  // loans, and borrowings under way
}

KvSend Engine::MakeSend(const Sequence& s, uint64_t transfer, BlockTable::LentSlot slot) const {
  const LoanRun& run = s.table.runs()[slot.run];
  return {.transfer = transfer,
          .creditor = static_cast<int>(Value(run.creditor)),
          .loan = run.loan,
          .epoch = run.epoch,
          .first_slot = slot.slot,
          .blocks = {}};
}

void Engine::PlanExports() {
  senders_.clear();
  move_credit_tokens_ = std::min(move_credit_tokens_ + options_.decode_move_tokens,
                                 2 * options_.block_tokens + options_.decode_move_tokens);
  for (const Row& row : rows_) {
    Sequence& s = *row.sequence;
    const uint32_t in_flight = s.exported_blocks();
    const uint32_t first = s.table.first_local() + in_flight,
                   full = (s.computed + row.tokens) / options_.block_tokens;
    if (full <= first) continue;
    uint32_t count = full - first;
    // Prefill pushes all it can. A decode is bound by the rate at which moving is free, unless it is about to
    // run out of room.
    const bool hurries =
        row.tokens > 1 || s.table.TokenCapacity() < s.computed + row.tokens + options_.block_tokens;
    if (!hurries) count = std::min(count, move_credit_tokens_ / options_.block_tokens);
    const auto slots = s.table.NextLentSlots(in_flight + count);
    if (!hurries && slots.size() > in_flight) {
      move_credit_tokens_ -= static_cast<uint32_t>(slots.size() - in_flight) * options_.block_tokens;
    }
    uint64_t transfer = 0;
    for (size_t i = in_flight; i < slots.size(); ++i) {
      if (transfer == 0 || slots[i].run != slots[i - 1].run) {
        if (transfer == 0) transfer = next_transfer_++;
        work_.sends.push_back(MakeSend(s, transfer, slots[i]));
        senders_.push_back(&s);
      }
      work_.sends.back().blocks.push_back(
          s.table.LocalBlock(s.table.first_local() + static_cast<uint32_t>(i)));
    }
  }
}

absl::StatusOr<bool> Engine::ExportFullBlocks(Sequence& s, uint32_t count) {
  const uint32_t in_flight = s.exported_blocks();
  const auto slots = s.table.NextLentSlots(in_flight + count);
  if (slots.size() <= in_flight) return false;
  const uint64_t transfer = next_transfer_++;
  for (size_t i = in_flight; i < slots.size(); ++i) {
    KvSend send = MakeSend(s, transfer, slots[i]);
    send.blocks = {s.table.LocalBlock(s.table.first_local() + static_cast<uint32_t>(i))};
    RETURN_IF_ERROR(mover_->Send(send));
  }
  s.exports.push_back({.transfer = transfer, .blocks = static_cast<uint32_t>(slots.size() - in_flight)});
  return true;
}

absl::Time Engine::NextRetry() const {
  absl::Time next = absl::InfiniteFuture();
  for (const auto* list : {&waiting_, &running_}) {
    for (const SequencePtr& s : *list) {
      if (s->blocked_since.has_value()) next = std::min(next, s->retry_at);
    }
  }
  return next;
}

}  // namespace lombard
