// Where the KV of one sequence lies. Block i holds tokens [i * block_tokens, (i + 1) * block_tokens).
//
//        dropped          lent                 full               open        spare
//      |..........|=== loan A ==|= loan B =|------------------|------..|   |  (local, no tokens yet)
//      block 0     first_block()                              computed()   end_block()
//
// Tokens are stored in order: computed() is the first that is not, and what lies before it (from
// first_block() on) is here or at a creditor. Only full blocks are lent, the oldest first. When a loan is
// lost its blocks are missing: computed() falls back to the first of them, they are filled like new ones, and
// computed() leaps over what is still there. Blocks behind every layer's window are dropped from the front.
//
// Tables change only between steps, on the step thread.
#pragma once

#include <cstdint>
#include <deque>
#include <limits>
#include <vector>

#include "absl/status/status.h"
#include "base/ids.h"

namespace lombard {

struct BlockPlace {
  enum class State : uint8_t {
    kMissing,    // nowhere: its loan was lost
    kOpen,       // here, with `stored` tokens, fewer than a block has
    kFull,       // here
    kLeaving,    // here, and being copied to a slot
    kLent,       // in a slot
    kReturning,  // in a slot, and being copied to a local block
  };
  State state = State::kMissing;
  uint32_t stored = 0;  // kOpen
  uint32_t slot = 0;    // kLeaving, kLent, kReturning: of the loan
  LoanId loan{};
  BlockId block{};  // all but kMissing, kLent

  // Where it can be read.
  bool local() const { return state == State::kOpen || state == State::kFull || state == State::kLeaving; }
  bool lent() const { return state == State::kLent || state == State::kReturning; }
};

// A loan of the sequence. Slots are taken in order and never twice.
struct TableLoan {
  LoanId id{};
  uint64_t epoch = 0;
  InstanceId creditor{};
  uint32_t slots = 0;    // that may be taken
  uint32_t taken = 0;    // slots below are, or were, in use
  uint32_t blocks = 0;   // kLent, kReturning
  uint32_t leaving = 0;  // kLeaving
  uint32_t free_slots() const { return slots - taken; }
};

class BlockTable {
 public:
  static constexpr uint32_t kNoGap = std::numeric_limits<uint32_t>::max();

  explicit BlockTable(uint32_t block_tokens) : block_tokens_(block_tokens) {}

  uint32_t block_tokens() const { return block_tokens_; }
  uint32_t first_block() const { return first_block_; }
  uint32_t end_block() const { return first_block_ + static_cast<uint32_t>(places_.size()); }
  // REQUIRES: first_block() <= block < end_block().
  const BlockPlace& place(uint32_t block) const;
  const std::vector<TableLoan>& loans() const { return loans_; }
  bool HasLoan(LoanId id) const;
  const TableLoan& loan(LoanId id) const;    // REQUIRES: one of loans().
  BlockId LocalBlock(uint32_t block) const;  // REQUIRES: place(block).local().

  uint32_t full_blocks() const { return full_; }        // here, full, not leaving
  uint32_t leaving_blocks() const { return leaving_; }  // here too
  uint32_t local_blocks() const { return open_ + full_ + leaving_ + returning_; }
  uint32_t lent_blocks() const { return lent_ + returning_; }
  uint32_t missing_blocks() const { return missing_; }
  uint32_t spare_blocks() const { return static_cast<uint32_t>(spare_.size()); }
  uint32_t free_lent_slots() const;
  // All it holds, here and at creditors, written or not.
  uint32_t held_blocks() const {
    return local_blocks() + leaving_ + lent_blocks() + spare_blocks() + free_lent_slots();
  }
  // Stored here; without those of open blocks behind computed().
  uint64_t local_tokens() const {
    return uint64_t{full_ + leaving_} * block_tokens_ + computed_ % block_tokens_;
  }
  std::vector<BlockId> AllLocal() const;  // with the spare ones

  // The first token whose KV is not stored, or was lost.
  uint32_t computed() const { return computed_; }
  // Where what is stored goes on behind computed(): rows of one step end here. kNoGap: nowhere.
  uint32_t gap_end() const;
  // Tokens from computed() on, gap_end() at most, that can be stored without another block.
  uint32_t Room() const;
  // Gives the next `tokens` tokens their blocks, from the spare ones. REQUIRES: tokens <= Room(). Then Store
  // or Abandon follows, before anything else that changes the table.
  void Open(uint32_t tokens);
  void Store(uint32_t tokens);  // they are stored
  void Abandon();               // they are not; what was opened is spare again

  // The first blocks of the sequence, full, read by others too. REQUIRES: an empty table.
  void AddShared(const std::vector<BlockId>& ids);
  // The first blocks of the sequence, full, lie in the slots of a loan from the first on. REQUIRES: none is
  // there yet, and no loan.
  void AddLent(LoanId loan, uint64_t epoch, InstanceId creditor, uint32_t blocks);
  // The first blocks, full, lie in the slots of a loan from the first on from now on. Their local ids are the
  // caller's to release. REQUIRES: nothing is in the loan yet; one that the table does not know is added.
  std::vector<BlockId> LendFront(LoanId loan, uint64_t epoch, InstanceId creditor, uint32_t blocks);
  // What lies in that loan, and nothing of it on its way back, is read here from now on. The loan goes.
  // REQUIRES: as many ids as blocks in it.
  void BringHome(LoanId loan, const std::vector<BlockId>& ids);
  // Another block with the same contents in the place of a full one.
  void ReplaceFull(uint32_t block, BlockId id);
  void AddSpare(const std::vector<BlockId>& ids) { spare_.insert(spare_.end(), ids.begin(), ids.end()); }
  void AddLoan(LoanId loan, uint64_t epoch, InstanceId creditor, uint32_t slots);

  // Blocks that were stored for this sequence before: slot i of the loan holds blocks[i], which increase; or
  // a full local one. What lies before them and is nowhere is missing. Returns how many of them were missing
  // until now; the other slots stay unused. REQUIRES: no tokens are being computed.
  uint32_t AddAdopted(LoanId loan, uint64_t epoch, InstanceId creditor, const std::vector<uint32_t>& blocks);
  bool AddAdoptedLocal(uint32_t block, BlockId id);  // false: it is not missing

  // A block on its way to or from a slot.
  struct Transit {
    uint32_t block = 0;  // of the sequence
    BlockId id{};
    LoanId loan{};
    uint32_t slot = 0;
  };
  // The oldest `count` full blocks from block `first` on and the next free slots; fewer when there are no
  // more of either. With the blocks that will be full when `new_tokens` more tokens are stored.
  std::vector<Transit> NextDepartures(uint32_t count, uint32_t new_tokens = 0, uint32_t first = 0) const;
  void Leave(const Transit& departure);  // REQUIRES: full by now, in the order of NextDepartures.
  void Stay(const Transit& departure);   // it did not arrive; the slot is not used again
  // It lies at the creditor now; its local block becomes spare.
  void Arrive(const Transit& departure);
  void CloseLoan(LoanId id);  // takes none of its slots any more

  // The oldest `count` blocks that lie in the loan are on their way to spare blocks; fewer when there are no
  // more of either. They are read in the loan until Returned.
  std::vector<Transit> StartReturns(LoanId loan, uint32_t count);
  void Returned(const Transit& transit);  // it is a full block here now
  void StayAway(const Transit& transit);  // it did not come; the local block is spare again
  void EndLoan(LoanId id);                // REQUIRES: nothing in it and nothing leaving for it
  // The loan and all in it are gone; what was leaving for it stays. Returns how many blocks are missing now
  // that were not.
  uint32_t LoseLoan(LoanId id);

  // Drops blocks before `block` (behind every window), up to one that is leaving or returning. Returns the
  // local ids to release; loans left without use are moved to `repaid`.
  std::vector<BlockId> DropBefore(uint32_t block, std::vector<LoanId>* repaid);
  std::vector<BlockId> TakeSpare();  // gives up all spare blocks; the caller releases them
  // Forgets everything; returns the local ids (spare ones too) for the caller to release. Loans are the
  // caller's to repay.
  std::vector<BlockId> Clear();

  absl::Status CheckInvariants() const;

 private:
  using State = BlockPlace::State;
  BlockPlace& At(uint32_t block);
  TableLoan& LoanAt(LoanId id);
  uint32_t* CountOf(State state);
  void Become(BlockPlace& place, State state);  // keeps the counts
  void LeapOverStored();
  bool MakeMissing(uint32_t block);  // false: it is somewhere

  uint32_t block_tokens_;
  uint32_t first_block_ = 0, computed_ = 0;
  uint32_t appended_ = 0;          // by Open
  std::deque<BlockPlace> places_;  // [i] is block first_block_ + i
  std::vector<TableLoan> loans_;   // in the order they came
  std::vector<BlockId> spare_;
  // Places by state.
  uint32_t missing_ = 0, open_ = 0, full_ = 0, leaving_ = 0, lent_ = 0, returning_ = 0;
};

}  // namespace lombard
