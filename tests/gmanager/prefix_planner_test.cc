// Goal: a prefix is left, lent or copied as the bytes say. Method: cases by hand; bytes by the formulas of the
// head.
#include "gmanager/prefix_planner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lombard {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

// A row travels for 4 bytes, a key is copied for 2: a prefix of 100 blocks of 10 keys is worth 500 rows.
PrefixPlanOptions Options() {
  return {.block_tokens = 10, .wire = {.query_bytes = 1, .state_bytes = 3}, .kv_bytes = 2};
}

constexpr uint64_t kName = 7;

PrefixState Instance(uint32_t id, std::map<uint64_t, PrefixUse> prefixes, uint32_t free = 1000) {
  return {InstanceId{id}, free, std::move(prefixes)};
}
PrefixUse Here(uint64_t rows, uint32_t blocks = 100) { return {blocks, 1, rows, true}; }
PrefixUse Elsewhere(uint32_t readers, uint64_t rows = 0, uint32_t blocks = 100) {
  return {blocks, readers, rows, false};
}
std::vector<PrefixCopy> Plan(const std::vector<PrefixState>& states,
                             const std::map<uint64_t, uint32_t>& advised = {}) {
  return PlanCopies(states, advised, Options());
}

// steps > s kappa / (b n_q (2 d p + 4)): for MHA about s / b steps, with g query heads a KV head a g-th.
TEST(PrefixPlanner, TheRowsThatPayForACopy) {
  const double d = 128, p = 2;
  for (const double group : {1.0, 4.0, 8.0}) {
    const double n_kv = 8, n_q = n_kv * group;
    const PrefixPlanOptions options{.wire = {.query_bytes = n_q * d * p, .state_bytes = n_q * (d * p + 4)},
                                    .kv_bytes = 2 * n_kv * d * p};
    EXPECT_DOUBLE_EQ(CopyRows(3000, options), 3000 * (2 * n_kv * d * p) / (n_q * (2 * d * p + 4)));
    EXPECT_NEAR(CopyRows(3000, options), 3000 / group, 0.01 * 3000 / group);
  }
}

TEST(PrefixPlanner, WhatNobodyReadsElsewhereIsLeft) {
  EXPECT_THAT(Plan({Instance(0, {{kName, Here(1'000'000)}}), Instance(1, {})}), IsEmpty());
  EXPECT_THAT(Plan({Instance(0, {{kName, Here(1'000'000)}}), Instance(1, {{kName, Here(9)}})}), IsEmpty());
}

// With a second copy each of two would get half of the rows.
TEST(PrefixPlanner, WhatIsReadLittleIsLentWhatIsReadMuchIsCopied) {
  EXPECT_THAT(Plan({Instance(0, {{kName, Here(990)}}), Instance(1, {{kName, Elsewhere(1, 9)}})}), IsEmpty());
  EXPECT_THAT(Plan({Instance(0, {{kName, Here(990)}}), Instance(1, {{kName, Elsewhere(1, 10)}})}),
              ElementsAre(PrefixCopy{kName, InstanceId{1}, 100}));
}

TEST(PrefixPlanner, EachFurtherCopyWantsMoreRows) {
  std::vector<PrefixState> states = {Instance(0, {{kName, Here(700)}}), Instance(1, {{kName, Here(700)}}),
                                     Instance(2, {{kName, Elsewhere(3, 99)}})};
  EXPECT_THAT(Plan(states), IsEmpty()) << "1499 of 1500";
  states[2].prefixes[kName].rows = 100;
  EXPECT_THAT(Plan(states), ElementsAre(PrefixCopy{kName, InstanceId{2}, 100}));
  // One that was evicted is paid for again.
  EXPECT_THAT(Plan(states, {{kName, 2}}), IsEmpty());
  states[0].prefixes[kName].rows += 500;
  EXPECT_THAT(Plan(states, {{kName, 2}}), ElementsAre(PrefixCopy{kName, InstanceId{2}, 100}));
}

TEST(PrefixPlanner, TheOneWithMostReadersFirstAndOneCopyOfAPrefixAtATime) {
  const std::vector<PrefixState> states = {
      Instance(0, {{kName, Here(1'000'000)}}), Instance(1, {{kName, Elsewhere(2)}}),
      Instance(2, {{kName, Elsewhere(5)}}), Instance(3, {{kName, Elsewhere(5)}})};
  EXPECT_THAT(Plan(states), ElementsAre(PrefixCopy{kName, InstanceId{2}, 100}));
}

TEST(PrefixPlanner, OnlyWhereThereIsRoomOneToAnInstanceAndAFewInAll) {
  EXPECT_THAT(Plan({Instance(0, {{kName, Here(9999)}}), Instance(1, {{kName, Elsewhere(9)}}, 100),
                    Instance(2, {{kName, Elsewhere(1)}}, 101)}),
              ElementsAre(PrefixCopy{kName, InstanceId{2}, 100}));
  std::map<uint64_t, PrefixUse> held, read;
  for (uint64_t name = 0; name < 9; ++name) held[name] = Here(9999), read[name] = Elsewhere(1);
  std::vector<PrefixState> states = {Instance(0, held)};
  for (uint32_t i = 1; i < 8; ++i) states.push_back(Instance(i, read));
  const std::vector<PrefixCopy> plan = Plan(states);
  ASSERT_EQ(plan.size(), Options().copies_max);
  for (uint32_t i = 0; i < plan.size(); ++i) EXPECT_EQ(plan[i], (PrefixCopy{i, InstanceId{i + 1}, 100}));
}

TEST(PrefixPlanner, NothingIsCopiedAtAnUnknownPrice) {
  PrefixPlanOptions options = Options();
  options.kv_bytes = 0;
  const std::vector<PrefixState> states = {Instance(0, {{kName, Here(9999)}}),
                                           Instance(1, {{kName, Elsewhere(1)}})};
  EXPECT_THAT(PlanCopies(states, {}, options), IsEmpty());
}

}  // namespace
}  // namespace lombard
