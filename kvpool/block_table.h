// Where the KV of one sequence lies. Block i holds tokens [i * block_tokens, (i + 1) * block_tokens).
//
//        dropped      lent, oldest first             local, newest last       spare
//      |..........|=== run: loan A ===|== loan B ==|-----------------------|  (local, no tokens yet)
//      block 0     first_block()                     first_local()
//
// Only full blocks are lent, and always the oldest local one next, so the lent part is a prefix made of runs,
// each a loan's slots in order. Blocks behind every layer's window are dropped from the front. Tables change
// only between steps, on the step thread.
#pragma once

#include <cstdint>
#include <deque>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/ids.h"

namespace lombard {

// The slots [first_slot, first_slot + used) of a loan hold the blocks [first_block, first_block + used) of
// the sequence.
struct LoanRun {
  LoanId loan{};
  uint64_t epoch = 0;
  InstanceId creditor{};
  uint32_t slots = 0;       // of the loan
  uint32_t first_slot = 0;  // grows when blocks are dropped behind the window
  uint32_t used = 0;
  uint32_t first_block = 0;  // of the sequence; meaningful when used > 0
  uint32_t free_slots() const { return slots - first_slot - used; }
};

class BlockTable {
 public:
  explicit BlockTable(uint32_t block_tokens) : block_tokens_(block_tokens) {}

  uint32_t block_tokens() const { return block_tokens_; }
  uint32_t first_block() const { return dropped_; }
  uint32_t first_local() const { return dropped_ + lent_; }
  uint32_t end_block() const { return first_local() + static_cast<uint32_t>(local_.size()); }
  uint32_t lent_blocks() const { return lent_; }
  uint32_t spare_blocks() const { return static_cast<uint32_t>(spare_.size()); }
  uint32_t free_lent_slots() const;
  // All it holds, here and at creditors, written or not.
  uint32_t held_blocks() const { return end_block() - first_block() + spare_blocks() + free_lent_slots(); }
  const std::deque<BlockId>& local() const { return local_; }  // local()[i] is block first_local() + i
  const std::vector<LoanRun>& runs() const { return runs_; }
  // Local blocks that hold or may hold tokens of this sequence.
  std::vector<BlockId> AllLocal() const;

  // Tokens that fit without another block.
  uint64_t TokenCapacity() const {
    return uint64_t{end_block()} * block_tokens_ + uint64_t{spare_blocks()} * block_tokens_;
  }
  // The first blocks of the sequence, full, read by others too. REQUIRES: an empty table.
  void AddShared(const std::vector<BlockId>& ids);
  // Another block with the same contents in the place of a local one.
  void ReplaceLocal(uint32_t block, BlockId id);
  void AddSpare(const std::vector<BlockId>& ids) { spare_.insert(spare_.end(), ids.begin(), ids.end()); }
  void AddLoan(LoanId loan, uint64_t epoch, InstanceId creditor, uint32_t slots);
  // Makes `token_count` tokens addressable by taking blocks from the spare ones. REQUIRES: token_count <=
  // TokenCapacity().
  void Extend(uint64_t token_count);
  BlockId LocalBlock(uint32_t block) const;  // REQUIRES: first_local() <= block < end_block().

  // Where the next `count` local blocks (oldest first) would go, one (run index, slot) each; fewer when the
  // loans have no more room.
  struct LentSlot {
    uint32_t run, slot;
  };
  std::vector<LentSlot> NextLentSlots(uint32_t count) const;
  // The oldest `count` local blocks now live in the slots that NextLentSlots named; their local blocks become
  // spare.
  void FlipToLent(uint32_t count);

  // Drops blocks before `block` (behind every window). Returns the local ids to release; loans left without
  // use are moved to `repaid`.
  std::vector<BlockId> DropBefore(uint32_t block, std::vector<LoanId>* repaid);
  void DropSpare(BlockId id);        // gives up one; the caller releases it
  std::vector<BlockId> TakeSpare();  // gives up all spare blocks; the caller releases them
  // Forgets everything; returns the local ids (spare ones too) for the caller to release. Loans are the
  // caller's to repay.
  std::vector<BlockId> Clear();

  absl::Status CheckInvariants() const;

 private:
  uint32_t block_tokens_;
  uint32_t dropped_ = 0;
  uint32_t lent_ = 0;  // sum of runs_[i].used
  std::vector<LoanRun> runs_;
  std::deque<BlockId> local_;
  std::vector<BlockId> spare_;
};

}  // namespace lombard
