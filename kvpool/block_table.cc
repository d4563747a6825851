#include "kvpool/block_table.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace lombard {

const BlockPlace& BlockTable::place(uint32_t block) const {
  CHECK_GE(block, first_block_);
  CHECK_LT(block, end_block());
  return places_[block - first_block_];
}

BlockPlace& BlockTable::At(uint32_t block) {
  return const_cast<BlockPlace&>(std::as_const(*this).place(block));
}

BlockId BlockTable::LocalBlock(uint32_t block) const {
  CHECK(place(block).local());
  return place(block).block;
}

bool BlockTable::HasLoan(LoanId id) const {
  return std::any_of(loans_.begin(), loans_.end(), [id](const TableLoan& l) { return l.id == id; });
}

const TableLoan& BlockTable::loan(LoanId id) const {
  const auto at = std::find_if(loans_.begin(), loans_.end(), [id](const TableLoan& l) { return l.id == id; });
  CHECK(at != loans_.end()) << "no loan " << Value(id);
  return *at;
}

TableLoan& BlockTable::LoanAt(LoanId id) { return const_cast<TableLoan&>(std::as_const(*this).loan(id)); }

uint32_t* BlockTable::CountOf(State state) {
  switch (state) {
    case State::kMissing:
      return &missing_;
    case State::kOpen:
      return &open_;
    case State::kFull:
      return &full_;
    case State::kLeaving:
      return &leaving_;
    case State::kLent:
      return &lent_;
    case State::kReturning:
      break;
  }
  return &returning_;
}

void BlockTable::Become(BlockPlace& place, State state) {
  --*CountOf(place.state);
  place.state = state;
  ++*CountOf(state);
}

uint32_t BlockTable::free_lent_slots() const {
  uint32_t count = 0;
  for (const TableLoan& loan : loans_) count += loan.free_slots();
  return count;
}

std::vector<BlockId> BlockTable::AllLocal() const {
  std::vector<BlockId> ids;
  for (const BlockPlace& place : places_) {
    if (place.local() || place.state == State::kReturning) ids.push_back(place.block);
  }
  ids.insert(ids.end(), spare_.begin(), spare_.end());
  return ids;
}

uint32_t BlockTable::gap_end() const {
  uint32_t block = computed_ / block_tokens_;
  if (computed_ % block_tokens_ != 0) ++block;  // the rest of this one is not stored
  for (; block < end_block(); ++block) {
    const BlockPlace& at = place(block);
    if (at.state == State::kMissing || (at.state == State::kOpen && at.stored == 0)) continue;
    return block * block_tokens_;
  }
  return kNoGap;
}

uint32_t BlockTable::Room() const {
  const uint32_t end = gap_end();
  uint32_t spare = spare_blocks(), room = 0;
  for (uint32_t block = computed_ / block_tokens_; block < end_block() && block * block_tokens_ < end;
       ++block) {
    const BlockPlace& at = place(block);
    if (at.state == State::kOpen) {
      room += block_tokens_ - at.stored;
    } else if (spare-- > 0) {
      room += block_tokens_;
    } else {
      return room;
    }
  }
  return end == kNoGap ? room + spare * block_tokens_ : room;
}

void BlockTable::Open(uint32_t tokens) {
  CHECK_LE(tokens, Room());
  const uint32_t end = (computed_ + tokens + block_tokens_ - 1) / block_tokens_;
  for (uint32_t block = computed_ / block_tokens_; block < end; ++block) {
    if (block == end_block()) {
      places_.emplace_back();
      ++missing_, ++appended_;
    }
    BlockPlace& at = At(block);
    if (at.state == State::kOpen) continue;
    CHECK(at.state == State::kMissing);
    at.block = spare_.back();
    at.stored = 0;
    spare_.pop_back();
    Become(at, State::kOpen);
  }
}

void BlockTable::Store(uint32_t tokens) {
  appended_ = 0;
  while (tokens > 0) {
    BlockPlace& at = At(computed_ / block_tokens_);
    CHECK(at.state == State::kOpen && at.stored == computed_ % block_tokens_);
    const uint32_t count = std::min(tokens, block_tokens_ - at.stored);
    at.stored += count, computed_ += count, tokens -= count;
    if (at.stored == block_tokens_) Become(at, State::kFull);
  }
  LeapOverStored();
}

void BlockTable::Abandon() {
  for (BlockPlace& at : places_) {
    if (at.state != State::kOpen || at.stored > 0) continue;
    spare_.push_back(at.block);
    Become(at, State::kMissing);
  }
  for (; appended_ > 0; --appended_) {
    places_.pop_back();
    --missing_;
  }
}

void BlockTable::LeapOverStored() {
  for (uint32_t block = computed_ / block_tokens_; block < end_block(); ++block) {
    const BlockPlace& at = place(block);
    if (at.state == State::kMissing) return;
    if (at.state == State::kOpen) {
      computed_ = block * block_tokens_ + at.stored;
      return;
    }
    computed_ = (block + 1) * block_tokens_;
  }
}

void BlockTable::AddShared(const std::vector<BlockId>& ids) {
  CHECK(end_block() == 0 && spare_.empty() && loans_.empty());
  for (BlockId id : ids) places_.push_back({.state = State::kFull, .block = id});
  full_ = static_cast<uint32_t>(ids.size());
  computed_ = full_ * block_tokens_;
}

void BlockTable::AddLent(LoanId id, uint64_t epoch, InstanceId creditor, uint32_t blocks) {
  CHECK(end_block() == 0 && loans_.empty());
  AddLoan(id, epoch, creditor, blocks);
  loans_.back().taken = loans_.back().blocks = blocks;
  for (uint32_t slot = 0; slot < blocks; ++slot)
    places_.push_back({.state = State::kLent, .slot = slot, .loan = id});
  lent_ = blocks;
  computed_ = blocks * block_tokens_;
}

std::vector<BlockId> BlockTable::LendFront(LoanId id, uint64_t epoch, InstanceId creditor, uint32_t blocks) {
  CHECK(first_block_ == 0 && blocks <= end_block());
  if (!HasLoan(id)) AddLoan(id, epoch, creditor, blocks);
  TableLoan& loan = LoanAt(id);
  CHECK_EQ(loan.taken, 0u);
  loan.slots = loan.taken = loan.blocks = blocks;
  std::vector<BlockId> ids;
  for (uint32_t block = 0; block < blocks; ++block) {
    BlockPlace& at = At(block);
    CHECK(at.state == State::kFull);
    ids.push_back(at.block);
    at.loan = id, at.slot = block;
    Become(at, State::kLent);
  }
  return ids;
}

void BlockTable::BringHome(LoanId id, const std::vector<BlockId>& ids) {
  TableLoan& loan = LoanAt(id);
  CHECK_EQ(loan.blocks, ids.size());
  for (BlockPlace& at : places_) {
    if (at.state != State::kLent || at.loan != id) continue;
    at.block = ids[at.slot];
    --loan.blocks;
    Become(at, State::kFull);
  }
  EndLoan(id);
}

void BlockTable::ReplaceFull(uint32_t block, BlockId id) {
  BlockPlace& at = At(block);
  CHECK(at.state == State::kFull);
  at.block = id;
}

void BlockTable::AddLoan(LoanId loan, uint64_t epoch, InstanceId creditor, uint32_t slots) {
  CHECK_GT(slots, 0u);
  loans_.push_back({.id = loan, .epoch = epoch, .creditor = creditor, .slots = slots});
}

bool BlockTable::MakeMissing(uint32_t block) {
  CHECK(open_ == 0 && block >= first_block_);
  for (; end_block() <= block; ++missing_) places_.emplace_back();
  return At(block).state == State::kMissing;
}

uint32_t BlockTable::AddAdopted(LoanId id, uint64_t epoch, InstanceId creditor,
                                const std::vector<uint32_t>& blocks) {
  const auto slots = static_cast<uint32_t>(blocks.size());
  TableLoan& loan = loans_.emplace_back(
      TableLoan{.id = id, .epoch = epoch, .creditor = creditor, .slots = slots, .taken = slots});
  for (uint32_t slot = 0; slot < slots; ++slot) {
    if (!MakeMissing(blocks[slot])) continue;
    BlockPlace& at = At(blocks[slot]);
    at.loan = id, at.slot = slot;
    Become(at, State::kLent);
    ++loan.blocks;
  }
  LeapOverStored();
  return loan.blocks;
}

bool BlockTable::AddAdoptedLocal(uint32_t block, BlockId id) {
  if (!MakeMissing(block)) return false;
  At(block).block = id;
  Become(At(block), State::kFull);
  LeapOverStored();
  return true;
}

std::vector<BlockTable::Transit> BlockTable::NextDepartures(uint32_t count, uint32_t new_tokens,
                                                            uint32_t first) const {
  std::vector<Transit> departures;
  const uint32_t opened = computed_ / block_tokens_, filled = (computed_ + new_tokens) / block_tokens_;
  uint32_t block = std::max(first_block_, first);
  for (const TableLoan& loan : loans_) {
    for (uint32_t slot = loan.taken; slot < loan.slots; ++slot, ++block) {
      const auto leaves = [&] {
        return place(block).state == State::kFull || (block >= opened && block < filled);
      };
      while (block < end_block() && !leaves()) ++block;
      if (block == end_block() || departures.size() == count) return departures;
      departures.push_back({.block = block, .id = place(block).block, .loan = loan.id, .slot = slot});
    }
  }
  return departures;
}

void BlockTable::Leave(const Transit& d) {
  BlockPlace& at = At(d.block);
  TableLoan& loan = LoanAt(d.loan);
  CHECK(at.state == State::kFull && at.block == d.id && loan.taken == d.slot && d.slot < loan.slots);
  at.loan = d.loan, at.slot = d.slot;
  ++loan.taken, ++loan.leaving;
  Become(at, State::kLeaving);
}

void BlockTable::Stay(const Transit& d) {
  BlockPlace& at = At(d.block);
  CHECK(at.state == State::kLeaving && at.loan == d.loan && at.slot == d.slot);
  --LoanAt(d.loan).leaving;
  Become(at, State::kFull);
}

void BlockTable::Arrive(const Transit& d) {
  BlockPlace& at = At(d.block);
  CHECK(at.state == State::kLeaving && at.loan == d.loan && at.slot == d.slot);
  TableLoan& loan = LoanAt(d.loan);
  --loan.leaving, ++loan.blocks;
  spare_.push_back(at.block);
  Become(at, State::kLent);
}

void BlockTable::CloseLoan(LoanId id) {
  TableLoan& loan = LoanAt(id);
  loan.slots = loan.taken;
}

std::vector<BlockTable::Transit> BlockTable::StartReturns(LoanId id, uint32_t count) {
  std::vector<Transit> transits;
  for (uint32_t block = first_block_; block < end_block(); ++block) {
    if (transits.size() == count || spare_.empty()) break;
    BlockPlace& at = At(block);
    if (at.state != State::kLent || at.loan != id) continue;
    at.block = spare_.back();
    spare_.pop_back();
    Become(at, State::kReturning);
    transits.push_back({.block = block, .id = at.block, .loan = id, .slot = at.slot});
  }
  return transits;
}

void BlockTable::Returned(const Transit& t) {
  BlockPlace& at = At(t.block);
  CHECK(at.state == State::kReturning && at.loan == t.loan && at.slot == t.slot);
  --LoanAt(t.loan).blocks;
  Become(at, State::kFull);
}

void BlockTable::StayAway(const Transit& t) {
  BlockPlace& at = At(t.block);
  CHECK(at.state == State::kReturning && at.loan == t.loan && at.slot == t.slot);
  spare_.push_back(at.block);
  Become(at, State::kLent);
}

void BlockTable::EndLoan(LoanId id) {
  CHECK(loan(id).blocks == 0 && loan(id).leaving == 0);
  std::erase_if(loans_, [id](const TableLoan& loan) { return loan.id == id; });
}

uint32_t BlockTable::LoseLoan(LoanId id) {
  uint32_t lost = 0;
  for (uint32_t block = first_block_; block < end_block(); ++block) {
    BlockPlace& at = At(block);
    if (at.loan != id) continue;
    if (at.state == State::kLeaving) Become(at, State::kFull);
    if (!at.lent()) continue;
    if (at.state == State::kReturning) spare_.push_back(at.block);
    Become(at, State::kMissing);
    computed_ = std::min(computed_, block * block_tokens_);
    ++lost;
  }
  std::erase_if(loans_, [id](const TableLoan& loan) { return loan.id == id; });
  return lost;
}

std::vector<BlockId> BlockTable::DropBefore(uint32_t block, std::vector<LoanId>* repaid) {
  std::vector<BlockId> freed;
  while (first_block_ < block && !places_.empty()) {
    const BlockPlace& at = places_.front();
    if (at.state == State::kLeaving || at.state == State::kReturning) break;
    if (at.local()) freed.push_back(at.block);
    if (at.state == State::kLent) {
      TableLoan& loan = LoanAt(at.loan);
      --loan.blocks;
      if (loan.blocks == 0 && loan.leaving == 0 && loan.free_slots() == 0) {
        repaid->push_back(loan.id);
        std::erase_if(loans_, [&](const TableLoan& l) { return l.id == repaid->back(); });
      }
    }
    --*CountOf(at.state);
    places_.pop_front();
    ++first_block_;
  }
  return freed;
}

std::vector<BlockId> BlockTable::TakeSpare() { return std::exchange(spare_, {}); }

std::vector<BlockId> BlockTable::Clear() {
  std::vector<BlockId> ids = AllLocal();
  *this = BlockTable(block_tokens_);
  return ids;
}

absl::Status BlockTable::CheckInvariants() const {
  std::set<std::pair<LoanId, uint32_t>> slots;
  uint32_t missing = 0, open = 0, full = 0, leaving = 0, lent = 0, returning = 0;
  for (uint32_t block = first_block_; block < end_block(); ++block) {
    const BlockPlace& at = place(block);
    missing += at.state == State::kMissing, open += at.state == State::kOpen,
        full += at.state == State::kFull;
    leaving += at.state == State::kLeaving, lent += at.state == State::kLent;
    returning += at.state == State::kReturning;
    if (block < computed_ / block_tokens_ && (at.state == State::kMissing || at.state == State::kOpen)) {
      return absl::InternalError(
          absl::StrCat("block ", block, " is not full, ", computed_, " tokens stored"));
    }
    if (at.state == State::kOpen && at.stored >= block_tokens_)
      return absl::InternalError(absl::StrCat("open block ", block, " holds ", at.stored, " tokens"));
    if (at.state != State::kLeaving && !at.lent()) continue;
    if (!slots.insert({at.loan, at.slot}).second || at.slot >= loan(at.loan).taken) {
      return absl::InternalError(
          absl::StrCat("block ", block, " names slot ", at.slot, " of loan ", Value(at.loan)));
    }
  }
  if (missing != missing_ || open != open_ || full != full_ || leaving != leaving_ || lent != lent_ ||
      returning != returning_) {
    return absl::InternalError(absl::StrCat("places ", missing, " ", open, " ", full, " ", leaving, " ", lent,
                                            " ", returning, ", counted ", missing_, " ", open_, " ", full_,
                                            " ", leaving_, " ", lent_, " ", returning_));
  }
  uint32_t in_loans = 0;
  for (const TableLoan& loan : loans_) {
    if (loan.taken > loan.slots || loan.blocks + loan.leaving > loan.taken)
      return absl::InternalError(absl::StrCat("loan ", Value(loan.id), " is overfull"));
    in_loans += loan.blocks + loan.leaving;
  }
  if (in_loans != lent + leaving + returning)
    return absl::InternalError(
        absl::StrCat(lent + leaving + returning, " blocks in slots, ", in_loans, " counted"));
  return absl::OkStatus();
}

}  // namespace lombard
