// Loans taken home: their blocks are fetched into local ones while the sequence goes on, and flip between two
// steps. Until then they are read at the creditor.
#include <algorithm>
#include <cmath>

#include "runtime/engine/engine_internal.h"

namespace lombard {

void Engine::TakeHome(LoanId id, absl::Time deadline, absl::Time now) {
  const auto comes = [id](const SequencePtr& s) {
    return std::any_of(s->returns.begin(), s->returns.end(),
                       [id](const LoanReturn& back) { return back.loan == id; });
  };
  if (std::any_of(running_.begin(), running_.end(), comes)) return;
  const std::vector<RequestId> readers = ReadersOf(id);
  if (readers.empty()) return;
  // A prefix that was lent: each reader may read what the cache has yet, or what has come.
  for (const RequestId& reader : readers) {
    std::optional<PrefixElsewhere>& elsewhere = Find(reader)->elsewhere;
    if (elsewhere.has_value() && elsewhere->loan == id) elsewhere->lent = false;
  }
  Sequence& s = *Find(readers.front());  // which fetches it for all of them
  s.table.CloseLoan(id);
  const TableLoan& loan = s.table.loan(id);
  s.returns.push_back({.loan = id, .begin = now, .deadline = deadline, .blocks = loan.blocks + loan.leaving});
  EndFinishedMove(s);
}

void Engine::BringLoansHome(absl::Time now) {
  std::vector<LoanId> given_up;
  for (const SequencePtr& s : running_) {
    if (s->returns.empty()) continue;
    FinishImports(*s);
    std::erase_if(s->returns, [&](LoanReturn& back) {
      if (!s->table.HasLoan(back.loan)) return true;  // lost, or behind the window
      const TableLoan& loan = s->table.loan(back.loan);
      if (loan.blocks + loan.leaving == 0) {
        s->table.EndLoan(back.loan);
        RepayUnlessRead(back.loan, now);
        return true;
      }
      if (now >= back.deadline) {
        given_up.push_back(back.loan);
        return true;
      }
      if (!back.stopped) StartImports(*s, back, now);
      return false;
    });
  }
  for (LoanId id : given_up) {
    const auto loan = rmanager_->borrowed().find(id);
    if (loan == rmanager_->borrowed().end()) continue;
    LoseLoan(Loan(loan->second), now);
    if (rmanager_->borrowed().contains(id)) rmanager_->Repay(id, now);
  }
}

void Engine::FinishImports(Sequence& s) {
  std::erase_if(s.imports, [&](const BlockImport& part) {
    const KvTransfer transfer = mover_->transfer(part.transfer);
    if (!transfer.done()) return false;
    mover_->ForgetTransfer(part.transfer);
    for (const BlockTable::Transit& t : part.blocks)
      transfer.status.ok() ? s.table.Returned(t) : s.table.StayAway(t);
    if (transfer.status.ok()) {
      recovery_.blocks_returned += part.blocks.size();
      return true;
    }
    for (LoanReturn& back : s.returns) back.stopped |= back.loan == part.blocks[0].loan;
    return true;
  });
}

void Engine::StartImports(Sequence& s, LoanReturn& back, absl::Time now) {
  // At the rate that is free beside decoding, or at the one that is done in half of the time.
  const double time = absl::FDivDuration(now - back.begin, back.deadline - back.begin);
  const auto due = static_cast<uint32_t>(std::ceil(std::min(1.0, 2 * time) * back.blocks));
  const uint32_t left = back.blocks - back.started, by_rate = move_credit_tokens_ / options_.block_tokens;
  const uint32_t wanted = std::min(left, std::max(by_rate, due - std::min(due, back.started)));
  if (wanted == 0) return;
  const uint32_t blocks = std::min(wanted, SpareForReturns(s, wanted, left, now));
  const auto transits = s.table.StartReturns(back.loan, blocks);
  const auto started = static_cast<uint32_t>(transits.size());
  back.started += started;
  move_credit_tokens_ -= std::min(by_rate, started) * options_.block_tokens;
  for (BlockImport& part : MakeTransfers(transits)) {
    mover_->Fetch(SlotsOf(s, part));
    s.imports.push_back(std::move(part));
  }
}

// The blocks that are at hand for what comes home, but for one that the next tokens may want. Finds more for
// the steps to come: `left` in all.
uint32_t Engine::SpareForReturns(Sequence& s, uint32_t blocks, uint32_t left, absl::Time now) {
  if (s.table.spare_blocks() < blocks + 1) {
    const uint32_t lacking = blocks + 1 - s.table.spare_blocks();
    s.table.AddSpare(*pool_->Allocate(std::min(lacking, pool_->free_count())));
  }
  const uint32_t spare = s.table.spare_blocks() - std::min(s.table.spare_blocks(), 1u);
  if (spare >= blocks || !s.exports.empty() || PrivateBlocks(s) == 0) return spare;
  if (s.table.free_lent_slots() > 0) {
    ExportFullBlocks(s, blocks - spare);
  } else if (!s.ticket.has_value() && now >= s.retry_at) {
    s.ticket = rmanager_->Borrow(s.id(), left - spare, Purpose::kGrowth, now);
  }
  return spare;
}

}  // namespace lombard
