// A prefix that several sequences read here, lent whole: when the planner wants memory of one of its readers,
// it goes before what that one has alone, since a creditor attends to it once for all of them.
//
// Its blocks are copied to the slots of one loan, in the name of the oldest reader. They are read here until
// all are stored; then, between two steps, every reader's table names the loan, and what the cache has of it
// here is memory to be had. Sequences that come with the same tokens read it there too. The loan is repaid by
// the last of its readers. When it is called back, one of them fetches it, or the cache has it yet, and the
// others' tables follow (engine_elsewhere.cc).
#include <algorithm>

#include "base/check.h"
#include "runtime/engine/engine_internal.h"

namespace lombard {

std::optional<PrefixNodeView> Engine::SharedEnd(const Sequence& s) const {
  if (s.phase != SequencePhase::kRunning || !s.reader.has_value()) return std::nullopt;
  const uint32_t blocks = SharedBlocks(s);
  if (blocks == 0) return std::nullopt;
  const std::vector<PrefixNodeView> path = prefixes_->Path(*s.reader);
  for (const PrefixNodeView& node : path) {
    if (node.readers != path.front().readers) break;
    if (node.first_block + node.blocks.size() == blocks) return node;
  }
  return std::nullopt;
}

std::map<RequestId, Engine::SharedPrefix> Engine::LendablePrefixes() const {
  std::map<RequestId, SharedPrefix> lendable;
  if (prefixes_ == nullptr || !options_.lending || prefix_move_.has_value()) return lendable;
  std::map<PrefixNodeId, std::pair<RequestId, uint32_t>> oldest;  // and the readers of the node, of any kind
  for (const SequencePtr& s : running_) {
    const std::optional<PrefixNodeView> node = SharedEnd(*s);
    if (!node.has_value()) continue;
    const RequestId& first = oldest.try_emplace(node->id, s->id(), node->readers).first->second.first;
    lendable[first].blocks = node->first_block + static_cast<uint32_t>(node->blocks.size());
    ++lendable[first].readers;
  }
  // All its readers are here and read it whole.
  for (const auto& [node, reader] : oldest) {
    const uint32_t found = lendable[reader.first].readers;
    if (found < 2 || found != reader.second) lendable.erase(reader.first);
  }
  return lendable;
}

bool Engine::StartPrefixMove(const MoveWanted& wanted, absl::Time now) {
  const std::map<RequestId, SharedPrefix> lendable = LendablePrefixes();
  const auto it = lendable.find(wanted.request);
  if (it == lendable.end() || it->second.blocks > wanted.blocks) return false;
  const std::optional<uint64_t> ticket = rmanager_->StartMove(wanted.plan_id, now, it->second.blocks);
  if (!ticket.has_value()) return false;
  const Sequence& s = *Find(wanted.request);
  const auto tokens = absl::MakeConstSpan(s.tokens).first(size_t{it->second.blocks} * options_.block_tokens);
  const PrefixMatch match = prefixes_->Match(s.request.cache_salt, tokens);
  CHECK_EQ(match.blocks.size(), it->second.blocks);
  prefix_move_ = {.plan_id = wanted.plan_id,
                  .ticket = *ticket,
                  .request = s.id(),
                  .reader = prefixes_->Pin(match, tokens.size(), now),
                  .blocks = match.blocks};
  return true;
}

void Engine::SendPrefix(const Borrowed& borrowed, absl::Time now) {
  const Loan& loan = borrowed.loans[0];
  if (!rmanager_->borrowed().contains(loan.id)) return EndPrefixMove(0, now);  // lost meanwhile
  PrefixMove& move = *prefix_move_;
  BlockTable& table = Find(move.request)->table;
  table.AddLoan(loan.id, loan.epoch, loan.creditor, loan.blocks);
  table.CloseLoan(loan.id);  // nothing else goes there
  move.ticket = 0, move.loan = loan.id, move.transfer = next_transfer_++;
  mover_->Send({.transfer = move.transfer,
                .creditor = static_cast<int>(Value(loan.creditor)),
                .loan = loan.id,
                .epoch = loan.epoch,
                .first_slot = 0,
                .blocks = move.blocks});
}

void Engine::FlipMovedPrefix(absl::Time now) {
  if (!prefix_move_.has_value() || prefix_move_->transfer == 0) return;
  const PrefixMove& move = *prefix_move_;
  const KvTransfer transfer = mover_->transfer(move.transfer);
  if (!transfer.done() && options_.bug != PlantedBug::kFlipBeforeStored) return;
  if (!transfer.status.ok()) return EndPrefixMove(0, now);  // whether the loan is lost is rmanager's to say
  // Those that read it now, if all of them read it whole.
  const PrefixNodeView end = prefixes_->Path(move.reader).back();
  const auto blocks = static_cast<uint32_t>(move.blocks.size());
  std::vector<Sequence*> readers;
  for (const SequencePtr& s : running_) {
    const std::optional<PrefixNodeView> node = SharedEnd(*s);
    if (node.has_value() && node->id == end.id) readers.push_back(s.get());
  }
  Sequence& first = *Find(move.request);
  const bool all =
      readers.size() + 1 == end.readers && std::find(readers.begin(), readers.end(), &first) != readers.end();
  if (!all) return EndPrefixMove(0, now);
  const TableLoan loan = first.table.loan(move.loan);
  const absl::Span<const uint64_t> names = Names(first, blocks);
  std::vector<SlotContent> contents;
  for (uint32_t block = 0; block < blocks; ++block) contents.push_back({block, names[block]});
  rmanager_->TellStored(loan.id, 0, contents);
  rmanager_->ShareLoan(loan.id);
  for (Sequence* s : readers) {
    StopSharing(*s);
    LeavePrefix(*s, now);
    pool_->ReleaseAll(s->table.LendFront(loan.id, loan.epoch, loan.creditor, blocks));
    s->elsewhere = {.loan = loan.id, .name = names.back(), .blocks = blocks, .lent = true};
  }
  ++prefixes_lent_;
  EndPrefixMove(blocks, now);
}

void Engine::EndPrefixMove(uint32_t moved, absl::Time now) {
  const PrefixMove move = *std::exchange(prefix_move_, std::nullopt);
  prefixes_->Abandon(move.reader);
  if (move.transfer != 0) mover_->ForgetTransfer(move.transfer);
  if (move.ticket != 0) rmanager_->CancelBorrow(move.ticket, now);
  rmanager_->FinishMove(move.plan_id, moved);
  if (moved > 0 || move.transfer == 0) return;
  Find(move.request)->table.EndLoan(move.loan);
  rmanager_->Repay(move.loan, now);
}

bool Engine::TryReadLent(Sequence& s, uint64_t cached_blocks, uint32_t blocks) {
  for (const SequencePtr& reader : running_) {
    if (!reader->elsewhere.has_value() || !reader->elsewhere->lent || !ReadsElsewhere(*reader)) continue;
    const PrefixElsewhere& lent = *reader->elsewhere;
    const size_t tokens = size_t{lent.blocks} * options_.block_tokens;
    if (cached_blocks > lent.blocks || tokens >= s.tokens.size() ||
        s.request.cache_salt != reader->request.cache_salt ||
        !std::equal(s.tokens.begin(), s.tokens.begin() + static_cast<int64_t>(tokens),
                    reader->tokens.begin())) {
      continue;
    }
    const uint32_t need = blocks - lent.blocks;
    if (need > pool_->free_count() || !rmanager_->MayAdmitLocally(s.id(), need, BlocksOfYoungerThanClaim()))
      return false;
    const TableLoan& loan = reader->table.loan(lent.loan);
    s.table.AddLent(loan.id, loan.epoch, loan.creditor, lent.blocks);
    s.table.AddSpare(*pool_->Allocate(need));
    s.elsewhere = lent;
    s.phase = SequencePhase::kRunning;
    s.blocked_since.reset();
    return true;
  }
  return false;
}

std::vector<RequestId> Engine::ReadersOf(LoanId loan) const {
  std::vector<RequestId> readers;
  for (const SequencePtr& s : running_) {
    if (s->table.HasLoan(loan)) readers.push_back(s->id());
  }
  return readers;
}

void Engine::RepayUnlessRead(LoanId loan, absl::Time now) {
  if (ReadersOf(loan).empty() || options_.bug == PlantedBug::kRepayWhatOthersRead)
    rmanager_->Repay(loan, now);
}

}  // namespace lombard
