// The performance model against figures worked out by hand.
#include "gmanager/cost_model.h"

#include <gtest/gtest.h>

namespace lombard {
namespace {

// A 13B layer at 1.6 TB/s reached: 317 M parameters in fp16 take 396 us, 1 K tokens of KV (20480 B each, 1024
// of them) 13.1 us.
TEST(CostModelTest, RooflineOfA13BLayerGivesThePublishedTimes) {
  const Hardware a100{.flops_per_second = 312e12,
                      .bytes_per_second = 2e12,
                      .compute_efficiency = 0.5,
                      .memory_efficiency = 0.8,
                      .launch_seconds = 0};
  const ComputeProfile p =
      Roofline(a100, {.parameters = 317e6, .bytes_per_parameter = 2, .kv_bytes_per_token = 20480});
  EXPECT_NEAR(p.weights_seconds, 396e-6, 0.5e-6);
  EXPECT_NEAR(p.token_seconds * 1000, 12.8e-6, 0.01e-6);
  EXPECT_NEAR(p.row_seconds, 2 * 317e6 / 156e12, 1e-12);
}

TEST(CostModelTest, LayerTimeIsTheSumOfItsPartsWithRemoteOverlapped) {
  CostModel cost(
      {.layers = 10,
       .merge_seconds = 1,
       .wire = {.query_bytes = 30, .state_bytes = 70},
       .link = {.bytes_per_second = 50, .latency_seconds = 3},
       .profile = {.weights_seconds = 100, .row_seconds = 10, .token_seconds = 2, .launch_seconds = 5}});
  EXPECT_EQ(cost.NonAttentionSeconds(0, 4), 105);   // bound by the weights
  EXPECT_EQ(cost.NonAttentionSeconds(0, 20), 205);  // bound by the rows
  EXPECT_EQ(cost.KneeBatch(0), 10);
  EXPECT_EQ(cost.AttentionSeconds(0, 7), 19);
  EXPECT_EQ(cost.AttentionSeconds(0, 0), 0);
  EXPECT_EQ(cost.RemoteSeconds({.creditor = 1, .tokens = 40, .rows = 2}), 200 / 50 + 6 + 85);
  EXPECT_EQ(cost.LayerSeconds(0, 4, 7, {}), 105 + 19);
  EXPECT_EQ(cost.LayerSeconds(0, 4, 7, {{.creditor = 1, .tokens = 40, .rows = 2}}), 105 + 95 + 1);
  EXPECT_EQ(cost.LayerSeconds(0, 4, 70, {{.creditor = 1, .tokens = 40, .rows = 2}}), 105 + 145 + 1);
  EXPECT_DOUBLE_EQ(cost.TokensPerSecond(0, 4, 7, {}), 4.0 / (10 * 124));
  EXPECT_EQ(cost.TokensPerSecond(0, 0, 7, {}), 0);
}

TEST(CostModelTest, AnInstancesOwnProfileReplacesTheDefault) {
  CostModel cost({.profile = {.weights_seconds = 1, .token_seconds = 1}});
  cost.SetProfile(2, {.weights_seconds = 7, .token_seconds = 3});
  EXPECT_EQ(cost.NonAttentionSeconds(0, 1), 1);
  EXPECT_EQ(cost.NonAttentionSeconds(1, 1), 1);  // a gap below the largest known instance
  EXPECT_EQ(cost.NonAttentionSeconds(2, 1), 7);
  EXPECT_EQ(cost.RemoteSeconds({.creditor = 2, .tokens = 5, .rows = 1}), 15);
  CostModel same({.profile = {.weights_seconds = 1, .token_seconds = 1}, .one_profile = true});
  same.SetProfile(2, {.weights_seconds = 7, .token_seconds = 3});
  EXPECT_EQ(same.NonAttentionSeconds(2, 1), 1);
}

}  // namespace
}  // namespace lombard
