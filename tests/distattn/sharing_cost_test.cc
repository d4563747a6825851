// Goal: readers are grouped exactly when the rule says that it is clearly faster, whatever was measured.
// Method: given numbers with known answers; then a profile of this machine, of which only what must hold
// everywhere is expected.
#include "distattn/sharing_cost.h"

#include <gtest/gtest.h>

#include <cmath>

#include "distattn/sharing_profile.h"

namespace lombard {
namespace {

const std::vector<int> kTwo(2, 1), kFour(4, 1), kMany(100, 1);

// Twice the rows cost 1.5 times the time, as where arithmetic counts too.
SharingCost Machine() {
  SharingCost cost;
  for (size_t i = 0; i < cost.key_seconds.size(); ++i) cost.key_seconds[i] = 1e-8 * std::pow(1.5, i);
  cost.job_seconds = 2e-6;
  cost.row_seconds = 5e-7;
  return cost;
}

TEST(SharingCost, IsMeasuredBetweenPointsOnALineAndBeyondThemInProportion) {
  const SharingCost cost = Machine();
  EXPECT_DOUBLE_EQ(cost.KeySeconds(1), 1e-8);
  EXPECT_DOUBLE_EQ(cost.KeySeconds(2), 1.5e-8);
  EXPECT_DOUBLE_EQ(cost.KeySeconds(3), (1.5e-8 + 2.25e-8) / 2);
  EXPECT_DOUBLE_EQ(cost.KeySeconds(128), 2 * cost.KeySeconds(64));
}

TEST(SharingCost, GroupsFromTheLengthOnAtWhichItPays) {
  const SharingCost cost = Machine();
  // Apart 2e-8 s per key, together 1.5e-8; 3e-6 for the job and its two rows; 95 % of apart must be left.
  EXPECT_EQ(cost.KeysMin(2), 751);  // 3e-6 / (0.95 * 2e-8 - 1.5e-8)
  EXPECT_FALSE(cost.Groups(749, kTwo));
  EXPECT_TRUE(cost.Groups(751, kTwo));
  EXPECT_EQ(cost.KeysMin(4), 259);  // 4e-6 / (0.95 * 4e-8 - 2.25e-8)
  EXPECT_FALSE(cost.Groups(258, kFour));
  EXPECT_TRUE(cost.Groups(259, kFour));
}

TEST(SharingCost, NeverGroupsOneReaderOrWhereStackingGainsNothing) {
  EXPECT_FALSE(Machine().Groups(1 << 30, std::vector<int>{1}));
  EXPECT_FALSE(Machine().Groups(1 << 30, std::vector<int>{512}));
  EXPECT_FALSE(SharingCost::Never().Groups(1 << 30, kMany));
  SharingCost linear = Machine();
  for (size_t i = 0; i < linear.key_seconds.size(); ++i) linear.key_seconds[i] = 1e-8 * (1 << i);
  EXPECT_FALSE(linear.Groups(1 << 30, kMany));
  EXPECT_EQ(linear.KeysMin(64), 0);
}

TEST(SharingCost, ReadersWithManyRowsGainLess) {
  const SharingCost cost = Machine();
  EXPECT_TRUE(cost.Groups(1000, std::vector<int>{1, 1, 1, 1}));
  // Chunks that fill the kernel's tiles by themselves: beyond 64 rows nothing is gained.
  EXPECT_FALSE(cost.Groups(1000, std::vector<int>{64, 64}));
}

TEST(SharingCost, OfReadingCountsKeys) {
  const SharingCost cost = SharingCost::OfReading(256);
  EXPECT_EQ(cost.KeysMin(2), 285);  // 256 / (0.95 * 2 - 1)
  EXPECT_FALSE(cost.Groups(256, kTwo));
  EXPECT_TRUE(cost.Groups(256, kFour));
}

TEST(SharingProfile, GivesNumbersThatCanBeTrue) {
  const AttentionShape shape{.q_heads = 32, .scale = 0.125f, .layer_windows = {0}};
  const KvLayout layout{.dtype = DType::kBF16, .kv_heads = 8, .head_dim = 64, .block_tokens = 32};
  const SharingCost cost = MeasureSharing(shape, layout, {DetectIsa(), nullptr}, absl::Hours(1));
  for (size_t i = 0; i < cost.key_seconds.size(); ++i) {
    EXPECT_GT(cost.key_seconds[i], 0) << i;
    EXPECT_LE(cost.key_seconds[i], 2.000001 * cost.key_seconds[i == 0 ? 0 : i - 1]) << i;
  }
  EXPECT_GE(cost.job_seconds, 0);
  EXPECT_GE(cost.row_seconds, 0);
}

TEST(SharingProfile, WithoutTimeNothingIsGrouped) {
  const AttentionShape shape{.q_heads = 4, .scale = 1, .layer_windows = {0}};
  const KvLayout layout{.dtype = DType::kF32, .kv_heads = 2, .head_dim = 16, .block_tokens = 16};
  const SharingCost cost = MeasureSharing(shape, layout, {Isa::kBase, nullptr}, absl::ZeroDuration());
  EXPECT_FALSE(cost.Groups(1 << 30, kMany));
}

}  // namespace
}  // namespace lombard
