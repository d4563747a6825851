#include "kvpool/block_table.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace lombard {

uint32_t BlockTable::free_lent_slots() const {
  uint32_t count = 0;
  for (const LoanRun& run : runs_) count += run.free_slots();
  return count;
}

std::vector<BlockId> BlockTable::AllLocal() const {
  std::vector<BlockId> ids(local_.begin(), local_.end());
  ids.insert(ids.end(), spare_.begin(), spare_.end());
  return ids;
}

void BlockTable::AddShared(const std::vector<BlockId>& ids) {
  CHECK(end_block() == 0 && spare_.empty() && runs_.empty());
  local_.assign(ids.begin(), ids.end());
}

void BlockTable::ReplaceLocal(uint32_t block, BlockId id) {
  CHECK_GE(block, first_local());
  CHECK_LT(block, end_block());
  local_[block - first_local()] = id;
}

void BlockTable::AddLoan(LoanId loan, uint64_t epoch, InstanceId creditor, uint32_t slots) {
  CHECK_GT(slots, 0u);
  runs_.push_back({.loan = loan, .epoch = epoch, .creditor = creditor, .slots = slots});
}

void BlockTable::Extend(uint64_t token_count) {
  CHECK_LE(token_count, TokenCapacity());
  while (uint64_t{end_block()} * block_tokens_ < token_count) {
    local_.push_back(spare_.back());
    spare_.pop_back();
  }
}

BlockId BlockTable::LocalBlock(uint32_t block) const {
  CHECK_GE(block, first_local());
  CHECK_LT(block, end_block());
  return local_[block - first_local()];
}

std::vector<BlockTable::LentSlot> BlockTable::NextLentSlots(uint32_t count) const {
  std::vector<LentSlot> slots;
  for (uint32_t run = 0; run < runs_.size() && slots.size() < count; ++run) {
    const LoanRun& r = runs_[run];
    // A run once left behind by a later one is closed: its slots would no longer be consecutive in the
    // sequence.
    if (run + 1 < runs_.size() && runs_[run + 1].used > 0) continue;
    for (uint32_t slot = r.first_slot + r.used; slot < r.slots && slots.size() < count; ++slot)
      slots.push_back({run, slot});
  }
  return slots;
}

void BlockTable::FlipToLent(uint32_t count) {
  const std::vector<LentSlot> slots = NextLentSlots(count);
  CHECK_EQ(slots.size(), count);
  CHECK_LE(count, local_.size());
  for (const LentSlot& slot : slots) {
    LoanRun& run = runs_[slot.run];
    if (run.used == 0) run.first_block = first_local();
    CHECK_EQ(run.first_block + run.used, first_local());
    CHECK_EQ(run.first_slot + run.used, slot.slot);
    ++run.used;
    ++lent_;
    spare_.push_back(local_.front());
    local_.pop_front();
  }
}

std::vector<BlockId> BlockTable::DropBefore(uint32_t block, std::vector<LoanId>* repaid) {
  std::vector<BlockId> freed;
  while (dropped_ < block && dropped_ < end_block()) {
    if (lent_ == 0) {
      freed.push_back(local_.front());
      local_.pop_front();
    } else {
      auto run = std::find_if(runs_.begin(), runs_.end(), [](const LoanRun& r) { return r.used > 0; });
      CHECK(run != runs_.end());
      ++run->first_slot, ++run->first_block, --run->used, --lent_;
      if (run->used == 0 && run->free_slots() == 0) {
        repaid->push_back(run->loan);
        runs_.erase(run);
      }
    }
    ++dropped_;
  }
  return freed;
}

void BlockTable::DropSpare(BlockId id) {
  const auto at = std::find(spare_.begin(), spare_.end(), id);
  CHECK(at != spare_.end());
  spare_.erase(at);
}

std::vector<BlockId> BlockTable::TakeSpare() { return std::exchange(spare_, {}); }

std::vector<BlockId> BlockTable::Clear() {
  std::vector<BlockId> ids = AllLocal();
  local_.clear(), spare_.clear(), runs_.clear();
  lent_ = dropped_ = 0;
  return ids;
}

absl::Status BlockTable::CheckInvariants() const {
  uint32_t lent = 0, next = dropped_;
  for (const LoanRun& run : runs_) {
    if (run.first_slot + run.used > run.slots)
      return absl::InternalError(absl::StrCat("loan ", Value(run.loan), " is overfull"));
    if (run.used > 0 && run.first_block != next) {
      return absl::InternalError(
          absl::StrCat("lent run starts at block ", run.first_block, ", expected ", next));
    }
    next += run.used;
    lent += run.used;
  }
  if (lent != lent_)
    return absl::InternalError(absl::StrCat(lent, " lent blocks in runs, ", lent_, " counted"));
  return absl::OkStatus();
}

}  // namespace lombard
