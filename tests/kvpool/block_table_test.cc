#include "kvpool/block_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

namespace lombard {
namespace {

using State = BlockPlace::State;
using testing::ElementsAre;
using testing::UnorderedElementsAre;

std::vector<BlockId> Ids(uint32_t first, uint32_t count) {
  std::vector<BlockId> ids;
  for (uint32_t i = 0; i < count; ++i) ids.push_back(BlockId{first + i});
  return ids;
}

void Compute(BlockTable& table, uint32_t tokens) {
  table.Open(tokens);
  table.Store(tokens);
}

// Sends the next blocks and lets them arrive.
void Lend(BlockTable& table, uint32_t count) {
  const auto departures = table.NextDepartures(count);
  ASSERT_EQ(departures.size(), count);
  for (const auto& d : departures) table.Leave(d);
  for (const auto& d : departures) table.Arrive(d);
}

std::vector<State> States(const BlockTable& table) {
  std::vector<State> states;
  for (uint32_t b = table.first_block(); b < table.end_block(); ++b) states.push_back(table.place(b).state);
  return states;
}

TEST(BlockTable, GrowsFromSpareBlocksOnly) {
  BlockTable table(4);
  table.AddSpare(Ids(0, 2));
  EXPECT_EQ(table.Room(), 8u);
  Compute(table, 5);
  EXPECT_EQ(table.end_block(), 2u);
  EXPECT_EQ(table.spare_blocks(), 0u);
  EXPECT_EQ(table.Room(), 3u);
  EXPECT_EQ(table.computed(), 5u);
  EXPECT_EQ(table.gap_end(), BlockTable::kNoGap);
}

TEST(BlockTable, WhatWasOpenedAndNotStoredLeavesNoTrace) {
  BlockTable table(4);
  table.AddSpare(Ids(0, 2));
  table.Open(6);
  EXPECT_EQ(table.computed(), 0u);
  EXPECT_EQ(table.Room(), 8u);
  table.Abandon();
  EXPECT_EQ(table.end_block(), 0u);
  EXPECT_EQ(table.spare_blocks(), 2u);
  EXPECT_EQ(table.missing_blocks(), 0u);
  Compute(table, 6);
  EXPECT_EQ(table.computed(), 6u);
  EXPECT_THAT(States(table), ElementsAre(State::kFull, State::kOpen));
}

TEST(BlockTable, LendsTheOldestBlocksFirstAndGetsTheirLocalBlocksBack) {
  BlockTable table(4);
  table.AddSpare(Ids(0, 4));
  table.AddLoan(LoanId{7}, 1, InstanceId{2}, 2);
  table.AddLoan(LoanId{8}, 1, InstanceId{3}, 2);
  Compute(table, 16);
  Lend(table, 3);
  ASSERT_TRUE(table.CheckInvariants().ok()) << table.CheckInvariants();
  EXPECT_THAT(States(table), ElementsAre(State::kLent, State::kLent, State::kLent, State::kFull));
  EXPECT_EQ(table.spare_blocks(), 3u);
  EXPECT_EQ(table.loan(LoanId{7}).blocks, 2u);
  EXPECT_EQ(table.place(2).loan, LoanId{8});
  EXPECT_EQ(table.place(2).slot, 0u);
  Compute(table, 4);
  EXPECT_EQ(table.end_block(), 5u);
}

TEST(BlockTable, ABlockOnItsWayIsReadHereAndMayStay) {
  BlockTable table(4);
  table.AddSpare(Ids(0, 2));
  table.AddLoan(LoanId{7}, 1, InstanceId{2}, 3);
  table.Open(8);
  const auto early = table.NextDepartures(9, 8);  // full once the step is done
  ASSERT_EQ(early.size(), 2u);
  table.Store(8);
  for (const auto& d : early) table.Leave(d);
  EXPECT_EQ(table.LocalBlock(0), early[0].id);
  EXPECT_EQ(table.full_blocks(), 0u);
  EXPECT_EQ(table.free_lent_slots(), 1u);
  table.Stay(early[0]);
  table.Arrive(early[1]);
  table.CloseLoan(LoanId{7});
  EXPECT_THAT(States(table), ElementsAre(State::kFull, State::kLent));
  EXPECT_EQ(table.free_lent_slots(), 0u);
  EXPECT_TRUE(table.NextDepartures(9).empty());
  ASSERT_TRUE(table.CheckInvariants().ok()) << table.CheckInvariants();
}

TEST(BlockTable, ItsFirstBlocksFlipToALoanAtOnce) {
  BlockTable table(4);
  table.AddShared(Ids(7, 2));
  table.AddSpare(Ids(0, 2));
  Compute(table, 6);
  table.AddLoan(LoanId{7}, 1, InstanceId{2}, 2);
  table.CloseLoan(LoanId{7});  // until all is there, nothing may leave for it
  EXPECT_TRUE(table.NextDepartures(9).empty());
  EXPECT_EQ(table.LendFront(LoanId{7}, 1, InstanceId{2}, 2), Ids(7, 2));
  EXPECT_THAT(States(table), ElementsAre(State::kLent, State::kLent, State::kFull, State::kOpen));
  EXPECT_EQ(table.place(1).slot, 1u);
  EXPECT_EQ(table.free_lent_slots(), 0u);
  EXPECT_EQ(table.spare_blocks(), 0u) << "the local ones are others' too";
  EXPECT_TRUE(table.CheckInvariants().ok()) << table.CheckInvariants();
  table.BringHome(LoanId{7}, Ids(20, 2));
  EXPECT_EQ(table.LocalBlock(1), BlockId{21});
  EXPECT_TRUE(table.CheckInvariants().ok()) << table.CheckInvariants();
}

TEST(BlockTable, BeginsWithSharedBlocksAndTakesATwinInTheirPlace) {
  BlockTable table(4);
  table.AddShared(Ids(7, 2));
  table.AddSpare(Ids(0, 2));
  EXPECT_EQ(table.computed(), 8u);
  EXPECT_EQ(table.Room(), 8u);
  Compute(table, 4);
  EXPECT_EQ(table.LocalBlock(1), BlockId{8});
  table.ReplaceFull(2, BlockId{5});
  EXPECT_EQ(table.LocalBlock(2), BlockId{5});
  EXPECT_EQ(table.held_blocks(), 4u);
  // What others read stays.
  table.AddLoan(LoanId{7}, 1, InstanceId{2}, 3);
  const auto departures = table.NextDepartures(9, 0, /*first=*/2);
  ASSERT_EQ(departures.size(), 1u);
  EXPECT_EQ(departures[0].id, BlockId{5});
  EXPECT_TRUE(table.CheckInvariants().ok());
}

TEST(BlockTable, DropsBehindTheWindowWhereverTheBlocksLie) {
  BlockTable table(4);
  table.AddSpare(Ids(0, 4));
  table.AddLoan(LoanId{7}, 1, InstanceId{2}, 2);
  Compute(table, 16);
  Lend(table, 2);
  std::vector<LoanId> repaid;
  EXPECT_TRUE(table.DropBefore(1, &repaid).empty());
  EXPECT_TRUE(repaid.empty());
  EXPECT_EQ(table.loan(LoanId{7}).blocks, 1u);
  EXPECT_EQ(table.DropBefore(3, &repaid).size(), 1u);
  EXPECT_EQ(repaid, std::vector<LoanId>{LoanId{7}});
  EXPECT_EQ(table.first_block(), 3u);
  EXPECT_TRUE(table.CheckInvariants().ok());
}

TEST(BlockTable, ALostLoanIsFilledAgainAndTheRestStays) {
  BlockTable table(4);
  table.AddSpare(Ids(0, 6));
  table.AddLoan(LoanId{7}, 1, InstanceId{2}, 1);
  table.AddLoan(LoanId{8}, 1, InstanceId{3}, 2);
  Compute(table, 22);
  Lend(table, 3);
  table.TakeSpare();
  EXPECT_EQ(table.LoseLoan(LoanId{8}), 2u);
  EXPECT_THAT(States(table), ElementsAre(State::kLent, State::kMissing, State::kMissing, State::kFull,
                                         State::kFull, State::kOpen));
  EXPECT_FALSE(table.HasLoan(LoanId{8}));
  EXPECT_EQ(table.computed(), 4u);
  EXPECT_EQ(table.gap_end(), 12u);
  EXPECT_EQ(table.Room(), 0u);
  table.AddSpare(Ids(9, 3));
  EXPECT_EQ(table.Room(), 8u);  // the gap, not the spare blocks
  Compute(table, 5);
  EXPECT_EQ(table.computed(), 9u);
  EXPECT_EQ(table.missing_blocks(), 0u);  // opened, not yet full
  EXPECT_EQ(table.Room(), 3u);
  Compute(table, 3);
  EXPECT_EQ(table.computed(), 22u);  // nothing more than what was lost
  EXPECT_EQ(table.gap_end(), BlockTable::kNoGap);
  EXPECT_EQ(table.Room(), 6u);
  ASSERT_TRUE(table.CheckInvariants().ok()) << table.CheckInvariants();
}

TEST(BlockTable, ASecondLossBeforeTheFirstGapKeepsWhatWasFilled) {
  BlockTable table(4);
  table.AddSpare(Ids(0, 4));
  table.AddLoan(LoanId{7}, 1, InstanceId{2}, 1);
  table.AddLoan(LoanId{8}, 1, InstanceId{3}, 1);
  Compute(table, 14);
  Lend(table, 2);
  EXPECT_EQ(table.LoseLoan(LoanId{8}), 1u);
  Compute(table, 3);
  EXPECT_EQ(table.computed(), 7u);
  EXPECT_EQ(table.LoseLoan(LoanId{7}), 1u);
  EXPECT_EQ(table.computed(), 0u);
  EXPECT_EQ(table.gap_end(), 4u);
  Compute(table, 4);
  EXPECT_EQ(table.computed(), 7u);
  Compute(table, 1);
  EXPECT_EQ(table.computed(), 14u);
}

TEST(BlockTable, WhatWasLeavingForALostLoanStays) {
  BlockTable table(4);
  table.AddSpare(Ids(0, 2));
  table.AddLoan(LoanId{7}, 1, InstanceId{2}, 4);
  Compute(table, 8);
  for (const auto& d : table.NextDepartures(2)) table.Leave(d);
  EXPECT_EQ(table.LoseLoan(LoanId{7}), 0u);
  EXPECT_EQ(table.computed(), 8u);
  EXPECT_EQ(table.full_blocks(), 2u);
  EXPECT_EQ(table.free_lent_slots(), 0u);
  EXPECT_TRUE(table.CheckInvariants().ok());
}

TEST(BlockTable, BlocksComeHomeAndAreReadWhereTheyAreWhole) {
  BlockTable table(4);
  table.AddSpare(Ids(0, 3));
  table.AddLoan(LoanId{7}, 1, InstanceId{2}, 3);
  Compute(table, 12);
  Lend(table, 3);
  table.TakeSpare();
  table.AddSpare(Ids(8, 2));
  const auto returns = table.StartReturns(LoanId{7}, 9);
  ASSERT_EQ(returns.size(), 2u);
  EXPECT_EQ(returns[1].slot, 1u);
  EXPECT_TRUE(table.place(0).lent());
  EXPECT_EQ(table.spare_blocks(), 0u);
  EXPECT_EQ(table.AllLocal().size(), 2u);
  ASSERT_TRUE(table.CheckInvariants().ok()) << table.CheckInvariants();
  table.Returned(returns[0]);
  table.StayAway(returns[1]);
  EXPECT_THAT(States(table), ElementsAre(State::kFull, State::kLent, State::kLent));
  EXPECT_EQ(table.loan(LoanId{7}).blocks, 2u);
  EXPECT_EQ(table.spare_blocks(), 1u);
  // Lost on the way.
  EXPECT_EQ(table.StartReturns(LoanId{7}, 1).size(), 1u);
  EXPECT_EQ(table.LoseLoan(LoanId{7}), 2u);
  EXPECT_EQ(table.computed(), 4u);
  EXPECT_EQ(table.spare_blocks(), 1u);
  ASSERT_TRUE(table.CheckInvariants().ok()) << table.CheckInvariants();
}

// Beside a plain account of what is stored where, token by token, in random order of every operation.
class Model {
 public:
  explicit Model(uint32_t seed) : random_(seed) {}

  void Act(BlockTable& table) {
    switch (random_() % 10) {
      case 0:
        table.AddSpare(Ids(next_id_++, 1));
        break;
      case 1:
      case 2:
        Compute(table);
        break;
      case 3:
        ++loan_;
        table.AddLoan(LoanId{loan_}, 1, InstanceId{1}, 1 + random_() % 3);
        break;
      case 4: {
        for (const auto& d : table.NextDepartures(1 + random_() % 3)) {
          ASSERT_EQ(places_[d.block], std::make_pair(uint64_t{0}, Value(d.id)));
          table.Leave(d);
          under_way_.push_back(d);
        }
        break;
      }
      case 5: {
        for (const auto& d : std::exchange(under_way_, {})) {
          if (random_() % 4 == 0) {
            table.Stay(d);
          } else {
            table.Arrive(d);
            places_[d.block] = {Value(d.loan), d.slot};
          }
        }
        break;
      }
      case 6:
        if (!table.loans().empty() && random_() % 3 == 0) Lose(table);
        break;
      case 8: {
        if (table.loans().empty()) break;
        const LoanId loan = table.loans()[random_() % table.loans().size()].id;
        for (const auto& t : table.StartReturns(loan, 1 + random_() % 3)) {
          ASSERT_EQ(places_[t.block], std::make_pair(Value(t.loan), t.slot));
          returning_.push_back(t);
        }
        break;
      }
      case 9: {
        for (const auto& t : std::exchange(returning_, {})) {
          if (random_() % 4 == 0) {
            table.StayAway(t);
          } else {
            table.Returned(t);
            places_[t.block] = {0, Value(t.id)};
          }
        }
        break;
      }
      case 7: {
        const uint32_t spare = table.spare_blocks(), missing = table.missing_blocks();
        table.Open(random_() % (table.Room() + 1) % 7);
        table.Abandon();
        ASSERT_EQ(table.spare_blocks(), spare);
        ASSERT_EQ(table.missing_blocks(), missing);
        break;
      }
    }
  }

  void Check(const BlockTable& table) const {
    ASSERT_TRUE(table.CheckInvariants().ok()) << table.CheckInvariants();
    uint32_t computed = 0;
    while (computed < stored_.size() && stored_[computed]) ++computed;
    ASSERT_EQ(table.computed(), computed);
    const auto next = std::find(stored_.begin() + computed, stored_.end(), true);
    if (next == stored_.end()) {
      ASSERT_EQ(table.gap_end(), BlockTable::kNoGap);
    } else {
      ASSERT_EQ(table.gap_end(), static_cast<uint32_t>(next - stored_.begin()));
    }
    for (const auto& [block, place] : places_) {
      const BlockPlace& at = table.place(block);
      ASSERT_EQ(place, at.lent() ? std::make_pair(Value(at.loan), at.slot)
                                 : std::make_pair(uint64_t{0}, Value(at.block)))
          << "block " << block;
    }
    std::vector<BlockId> ids = table.AllLocal();
    std::sort(ids.begin(), ids.end());
    ASSERT_EQ(ids, Ids(0, next_id_)) << "none lost, none twice";
  }

 private:
  void Compute(BlockTable& table) {
    const uint32_t room = table.Room();
    const uint32_t tokens = std::min<uint32_t>(room, 1 + random_() % 9);
    if (tokens == 0) return;
    const uint32_t first = table.computed();
    table.Open(tokens);
    for (uint32_t t = first; t < first + tokens; ++t) {
      if (t >= stored_.size()) stored_.resize(t + 1, false);
      ASSERT_FALSE(stored_[t]) << "token " << t << " is computed twice";
      stored_[t] = true;
      places_[t / 4] = {0, Value(table.LocalBlock(t / 4))};
    }
    table.Store(tokens);
  }

  void Lose(BlockTable& table) {
    const LoanId id = table.loans()[random_() % table.loans().size()].id;
    std::erase_if(under_way_, [&](const BlockTable::Transit& d) { return d.loan == id; });
    std::erase_if(returning_, [&](const BlockTable::Transit& d) { return d.loan == id; });
    const uint32_t lost = static_cast<uint32_t>(std::erase_if(places_, [&](const auto& entry) {
      if (entry.second.first != Value(id)) return false;
      for (uint32_t t = entry.first * 4; t < entry.first * 4 + 4; ++t) stored_[t] = false;
      return true;
    }));
    ASSERT_EQ(table.LoseLoan(id), lost);
  }

  std::mt19937 random_;
  std::map<uint32_t, std::pair<uint64_t, uint32_t>> places_;  // block -> (loan or 0, slot or local id)
  std::vector<bool> stored_;                                  // by token
  std::vector<BlockTable::Transit> under_way_, returning_;
  uint32_t next_id_ = 0, loan_ = 0;
};

TEST(BlockTable, AdoptedBlocksStandWhereTheyBelongAndTheRestIsMissing) {
  BlockTable table(4);
  EXPECT_TRUE(table.AddAdoptedLocal(0, BlockId{7}));
  EXPECT_EQ(table.AddAdopted(LoanId{1}, 5, InstanceId{2}, {0, 2, 3}), 2) << "block 0 is here already";
  EXPECT_FALSE(table.AddAdoptedLocal(2, BlockId{8}));
  EXPECT_EQ(table.AddAdopted(LoanId{2}, 5, InstanceId{3}, {5}), 1);
  ASSERT_TRUE(table.CheckInvariants().ok()) << table.CheckInvariants();
  EXPECT_EQ(table.computed(), 4);
  EXPECT_EQ(table.gap_end(), 8);
  EXPECT_EQ(table.missing_blocks(), 2);
  EXPECT_EQ(table.place(3).slot, 2);
  EXPECT_EQ(table.free_lent_slots(), 0);
  table.AddSpare({BlockId{9}, BlockId{10}});
  table.Open(4);
  table.Store(4);
  EXPECT_EQ(table.computed(), 16) << "leaps over what is lent";
  table.Open(4);
  table.Store(4);
  EXPECT_EQ(table.computed(), 24);
  EXPECT_EQ(table.LoseLoan(LoanId{1}), 2);
  EXPECT_EQ(table.computed(), 8);
  ASSERT_TRUE(table.CheckInvariants().ok()) << table.CheckInvariants();
}

TEST(BlockTable, AgreesWithAPlainAccountUnderRandomUseAndLoss) {
  for (uint32_t seed = 0; seed < 300; ++seed) {
    BlockTable table(4);
    Model model(seed);
    for (int i = 0; i < 150; ++i) {
      model.Act(table);
      if (!testing::Test::HasFatalFailure()) model.Check(table);
      ASSERT_FALSE(testing::Test::HasFatalFailure()) << "seed " << seed << ", action " << i;
    }
  }
}

}  // namespace
}  // namespace lombard
