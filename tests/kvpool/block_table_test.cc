#include "kvpool/block_table.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

namespace lombard {
namespace {

std::vector<BlockId> Ids(uint32_t first, uint32_t count) {
  std::vector<BlockId> ids;
  for (uint32_t i = 0; i < count; ++i) ids.push_back(BlockId{first + i});
  return ids;
}

TEST(BlockTable, GrowsFromSpareBlocksOnly) {
  BlockTable table(4);
  table.AddSpare(Ids(0, 2));
  EXPECT_EQ(table.TokenCapacity(), 8u);
  table.Extend(5);
  EXPECT_EQ(table.end_block(), 2u);
  EXPECT_EQ(table.spare_blocks(), 0u);
  EXPECT_EQ(table.TokenCapacity(), 8u);
}

TEST(BlockTable, LendsTheOldestBlocksFirstAndGetsTheirLocalBlocksBack) {
  BlockTable table(4);
  table.AddSpare(Ids(0, 4));
  table.AddLoan(LoanId{7}, 1, InstanceId{2}, 2);
  table.AddLoan(LoanId{8}, 1, InstanceId{3}, 2);
  table.Extend(16);
  table.FlipToLent(3);
  ASSERT_TRUE(table.CheckInvariants().ok()) << table.CheckInvariants();
  EXPECT_EQ(table.first_local(), 3u);
  EXPECT_EQ(table.spare_blocks(), 3u);
  EXPECT_EQ(table.runs()[0].used, 2u);
  EXPECT_EQ(table.runs()[1].used, 1u);
  EXPECT_EQ(table.runs()[1].first_block, 2u);
  table.Extend(20);
  EXPECT_EQ(table.end_block(), 5u);
}

TEST(BlockTable, BeginsWithSharedBlocksAndTakesATwinInTheirPlace) {
  BlockTable table(4);
  table.AddShared(Ids(7, 2));
  table.AddSpare(Ids(0, 2));
  EXPECT_EQ(table.TokenCapacity(), 16u);
  table.Extend(10);
  EXPECT_EQ(table.LocalBlock(1), BlockId{8});
  table.ReplaceLocal(2, BlockId{5});
  EXPECT_EQ(table.LocalBlock(2), BlockId{5});
  EXPECT_EQ(table.held_blocks(), 4u);
  // A shared block that went to a creditor is no spare one.
  table.AddLoan(LoanId{7}, 1, InstanceId{2}, 1);
  table.FlipToLent(1);
  table.DropSpare(BlockId{7});
  EXPECT_EQ(table.spare_blocks(), 1u);
  EXPECT_TRUE(table.CheckInvariants().ok());
}

TEST(BlockTable, DropsBehindTheWindowWhereverTheBlocksLie) {
  BlockTable table(4);
  table.AddSpare(Ids(0, 4));
  table.AddLoan(LoanId{7}, 1, InstanceId{2}, 2);
  table.Extend(16);
  table.FlipToLent(2);
  std::vector<LoanId> repaid;
  EXPECT_TRUE(table.DropBefore(1, &repaid).empty());
  EXPECT_TRUE(repaid.empty());
  EXPECT_EQ(table.runs()[0].first_slot, 1u);
  EXPECT_EQ(table.DropBefore(3, &repaid).size(), 1u);
  EXPECT_EQ(repaid, std::vector<LoanId>{LoanId{7}});
  EXPECT_EQ(table.first_block(), 3u);
  EXPECT_TRUE(table.CheckInvariants().ok());
}

// Against a plain map from block number to place, in random order of every operation.
TEST(BlockTable, AgreesWithAPlainMapUnderRandomUse) {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    std::mt19937 random(seed);
    BlockTable table(4);
    std::map<uint32_t, std::pair<uint64_t, uint32_t>> place;  // block -> (loan or 0, slot or local id)
    uint32_t next_id = 0, tokens = 0, loan = 0;
    for (int i = 0; i < 100; ++i) {
      switch (random() % 4) {
        case 0:
          table.AddSpare(Ids(next_id, 1)), ++next_id;
          break;
        case 1:
          if (tokens < table.TokenCapacity()) {
            table.Extend(++tokens);
            place[(tokens - 1) / 4] = {0, Value(table.LocalBlock((tokens - 1) / 4))};
          }
          break;
        case 2:
          table.AddLoan(LoanId{++loan}, 1, InstanceId{1}, 1 + random() % 3);
          break;
        case 3: {
          const uint32_t full = tokens / 4;
          if (full <= table.first_local()) break;
          const auto slots = table.NextLentSlots(1 + random() % (full - table.first_local()));
          for (uint32_t j = 0; j < slots.size(); ++j) {
            place[table.first_local() + j] = {Value(table.runs()[slots[j].run].loan), slots[j].slot};
          }
          table.FlipToLent(slots.size());
          break;
        }
      }
      ASSERT_TRUE(table.CheckInvariants().ok()) << "seed " << seed << ": " << table.CheckInvariants();
      for (const LoanRun& run : table.runs()) {
        for (uint32_t j = 0; j < run.used; ++j) {
          ASSERT_EQ(place[run.first_block + j], std::make_pair(Value(run.loan), run.first_slot + j))
              << "seed " << seed;
        }
      }
      for (uint32_t b = table.first_local(); b < table.end_block(); ++b) {
        ASSERT_EQ(place[b], std::make_pair(uint64_t{0}, Value(table.LocalBlock(b)))) << "seed " << seed;
      }
    }
  }
}

}  // namespace
}  // namespace lombard
