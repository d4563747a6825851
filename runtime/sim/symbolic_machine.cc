#include "runtime/sim/symbolic_machine.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status.h"

namespace lombard::sim {

Cell NextCell(Cell before, int32_t token) {  // finaliser of splitmix64
  uint64_t x = before * 0x9e3779b97f4a7c15u + static_cast<uint64_t>(token) + 1;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  x ^= x >> 31;
  return x == 0 ? 1 : x;
}

int32_t SampleAt(Cell cell, const Sampler& by) {
  const Cell mixed = NextCell(cell ^ (by.incarnation << 32), by.rank);
  return static_cast<int32_t>((mixed >> 17) % kVocabulary);
}

std::vector<Cell> SymbolicMachine::Gather(const std::vector<BlockId>& blocks) const {
  std::vector<Cell> cells;
  for (BlockId block : blocks) {
    const auto first = cells_.begin() + static_cast<int64_t>(Value(block) * size_t{block_tokens_});
    cells.insert(cells.end(), first, first + block_tokens_);
  }
  return cells;
}

void SymbolicMachine::Send(const KvSend& send) {
  Sent& sent = transfers_[send.transfer];
  ++sent.progress.sent;
  sent.creditors.push_back(send.creditor);
  hooks_.send(send.creditor,
              KvWrite{send.transfer, send.loan, send.epoch, send.first_slot, Gather(send.blocks)});
}

void SymbolicMachine::Fetch(const KvFetch& fetch) {
  Sent& sent = transfers_[fetch.transfer];
  ++sent.progress.sent;
  sent.creditors.push_back(fetch.creditor);
  sent.fetches[fetch.first_slot] = fetch.blocks;
  hooks_.send(fetch.creditor, KvRead{fetch.transfer, fetch.loan, fetch.epoch, fetch.first_slot,
                                     static_cast<uint32_t>(fetch.blocks.size())});
}

void SymbolicMachine::OnData(int from, const KvData& data) {
  const auto it = transfers_.find(data.transfer);
  if (it == transfers_.end() || it->second.progress.done()) return;
  Sent& sent = it->second;
  if (data.refused) {
    sent.progress.status = absl::NotFoundError(absl::StrCat("rank ", from, " does not hold the loan"));
    failures_.push_back({from, data.loan, {}});
    return;
  }
  const auto fetch = sent.fetches.find(data.first_slot);
  if (fetch == sent.fetches.end()) return;  // a copy
  for (size_t i = 0; i < data.cells.size(); ++i)
    At(fetch->second[i / block_tokens_], static_cast<uint32_t>(i % block_tokens_)) = data.cells[i];
  sent.fetches.erase(fetch);
  ++sent.progress.stored;
}

KvData SymbolicMachine::Read(const KvRead& read, const LoanSlots* slots) const {
  KvData data{.transfer = read.transfer, .loan = read.loan, .first_slot = read.first_slot};
  if (slots == nullptr || read.first_slot + read.blocks > slots->blocks.size()) {
    data.refused = true;
    return data;
  }
  const auto first = slots->blocks.begin() + read.first_slot;
  data.cells = Gather({first, first + read.blocks});
  return data;
}

KvTransfer SymbolicMachine::transfer(uint64_t id) {
  const auto it = transfers_.find(id);
  return it == transfers_.end() ? KvTransfer{} : it->second.progress;
}

void SymbolicMachine::Copy(BlockId from, BlockId to) {
  for (uint32_t slot = 0; slot < block_tokens_; ++slot) At(to, slot) = At(from, slot);
}

void SymbolicMachine::Poison(BlockId id) {
  for (uint32_t slot = 0; slot < block_tokens_; ++slot) At(id, slot) = 0;
}

void SymbolicMachine::Start(const StepWork* work, double seconds) {
  work_ = work;
  seconds_ = seconds;
  ++exchange_;
  parts_.clear();
  failed_ = false;
  for (const SequenceRows& sequence : work->plan.sequences) {
    for (const AttentionSpan& span : sequence.spans) {
      const auto* lent = std::get_if<LentSpan>(&span);
      if (lent == nullptr) continue;
      hooks_.send(lent->creditor, Query{.exchange = exchange_,
                                        .part = static_cast<uint32_t>(parts_.size()),
                                        .loan = lent->loan,
                                        .epoch = lent->epoch,
                                        .first_slot = lent->first_slot,
                                        .blocks = lent->token_count / block_tokens_});
      parts_.push_back({lent->creditor, lent->loan, {}});
    }
  }
  missing_ = static_cast<uint32_t>(parts_.size());
}

void SymbolicMachine::FailStep(RemoteFailure failure) {
  failures_.push_back(failure);
  failed_ = true;
}

void SymbolicMachine::GiveUp() {
  for (const Part& part : parts_) {
    if (part.cells.empty()) FailStep({.creditor = part.creditor, .loan = {}, .status = {}});
  }
}

void SymbolicMachine::OnState(int from, const State& state) {
  if (work_ == nullptr || state.exchange != exchange_ || state.part >= parts_.size()) return;  // stale
  Part& part = parts_[state.part];
  if (part.creditor != from || !part.cells.empty()) return;
  if (state.refused) return FailStep({from, part.loan, {}});
  part.cells = state.cells;
  --missing_;
}

void SymbolicMachine::OnStored(int from, const KvStored& stored) {
  const auto it = transfers_.find(stored.transfer);
  if (it == transfers_.end()) return;
  KvTransfer& progress = it->second.progress;
  if (stored.refused) {
    progress.status = absl::NotFoundError(absl::StrCat("rank ", from, " does not hold the loan"));
    failures_.push_back({from, stored.loan, {}});
  } else if (progress.stored < progress.sent) {
    ++progress.stored;
  }
}

void SymbolicMachine::OnPeerDown(int peer) {
  for (auto& [id, sent] : transfers_) {
    const bool involved =
        std::find(sent.creditors.begin(), sent.creditors.end(), peer) != sent.creditors.end();
    if (involved && !sent.progress.done())
      sent.progress.status = absl::UnavailableError(absl::StrCat("rank ", peer, " is down"));
  }
  if (work_ == nullptr) return;
  for (const Part& part : parts_) {
    if (part.creditor == peer && part.cells.empty())
      return FailStep({.creditor = peer, .loan = {}, .status = {}});
  }
}

// What the rows of a sequence can see of the positions before them, by position; 0 where nothing covers.
// `part` counts the lent spans on the way.
std::vector<Cell> SymbolicMachine::Coverage(size_t index, uint32_t* part) {
  const SequenceRows& sequence = work_->plan.sequences[index];
  std::vector<Cell> seen(static_cast<size_t>(sequence.first_position), 0);
  const auto cover = [&](int first, int count, const std::vector<Cell>& cells) {
    for (int i = 0; i < count && first + i < sequence.first_position; ++i) {
      Cell& cell = seen[static_cast<size_t>(first + i)];
      if (cell != 0) {
        hooks_.violation(absl::StrCat(ToString(work_->requests[index]), ": position ", first + i,
                                      " is covered twice in step ", work_->step));
      }
      cell = cells[static_cast<size_t>(i)];
    }
  };
  for (const SharedSpan& shared : work_->plan.shared) {
    if (std::find(shared.readers.begin(), shared.readers.end(), static_cast<int>(index)) ==
        shared.readers.end())
      continue;
    cover(shared.span.first_position, shared.span.token_count, Gather(shared.span.blocks));
  }
  for (const AttentionSpan& span : sequence.spans) {
    if (const auto* local = std::get_if<LocalSpan>(&span)) {
      cover(local->first_position, local->token_count, Gather(local->blocks));
    } else {
      const LentSpan& lent = std::get<LentSpan>(span);
      cover(lent.first_position, lent.token_count, parts_[(*part)++].cells);
    }
  }
  return seen;
}

absl::StatusOr<StepResult> SymbolicMachine::Finish() {
  CHECK(work_ != nullptr && ready());
  const StepWork& work = *work_;
  if (failed_) {
    work_ = nullptr;
    return absl::UnavailableError("a creditor is gone or refuses");
  }
  // What a tenth of the time went to is a guess that the rates of the load follow from.
  StepResult result{.remote = !parts_.empty(), .attention = {.local = seconds_ / 10}, .seconds = seconds_};
  std::vector<Cell> rows(work.input.tokens.size());
  uint32_t part = 0;
  for (size_t i = 0; i < work.plan.sequences.size(); ++i) {
    const SequenceRows& sequence = work.plan.sequences[i];
    const std::vector<Cell> seen = Coverage(i, &part);
    for (size_t position = 0; position < seen.size(); ++position) {
      if (seen[position] == hooks_.expected(work.requests[i], static_cast<uint32_t>(position))) continue;
      hooks_.violation(absl::StrCat(ToString(work.requests[i]), ": step ", work.step, " sees ",
                                    seen[position] == 0 ? "nothing" : "foreign KV", " at position ", position,
                                    " of ", seen.size()));
      break;
    }
    Cell before = seen.empty() ? hooks_.origin(work.requests[i]) : seen.back();
    for (int row = sequence.first_row; row < sequence.first_row + sequence.rows; ++row) {
      before = NextCell(before, work.input.tokens[static_cast<size_t>(row)]);
      rows[static_cast<size_t>(row)] = before;
      const KvTarget& target = work.plan.new_kv[static_cast<size_t>(row)];
      At(target.block, static_cast<uint32_t>(target.slot)) = before;
    }
  }
  for (int32_t row : work.input.logit_rows) {
    const size_t first = result.logits.size();
    result.logits.resize(first + kVocabulary, 0);
    result.logits[first + static_cast<size_t>(SampleAt(rows[static_cast<size_t>(row)], hooks_.sampler()))] =
        1;
  }
  for (const KvSend& send : work.sends) Send(send);
  work_ = nullptr;
  return result;
}

State SymbolicMachine::Answer(const Query& query, const LoanSlots* slots) const {
  State state{.exchange = query.exchange, .part = query.part};
  if (slots == nullptr || query.first_slot + query.blocks > slots->blocks.size()) {
    state.refused = true;
    return state;
  }
  const auto first = slots->blocks.begin() + query.first_slot;
  state.cells = Gather({first, first + query.blocks});
  return state;
}

KvStored SymbolicMachine::Store(const KvWrite& write, const LoanSlots* slots) {
  KvStored stored{.transfer = write.transfer, .loan = write.loan};
  const size_t blocks = write.cells.size() / block_tokens_;
  if (slots == nullptr || slots->loan.prefix || write.first_slot + blocks > slots->blocks.size()) {
    stored.refused = true;
    return stored;
  }
  for (size_t i = 0; i < write.cells.size(); ++i) {
    At(slots->blocks[write.first_slot + i / block_tokens_], static_cast<uint32_t>(i % block_tokens_)) =
        write.cells[i];
  }
  return stored;
}

}  // namespace lombard::sim
