// Algorithm 1: the two worked examples of a 13B model on A100s with exact figures, then properties over
// random clusters.
#include "gmanager/planner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

namespace lombard {
namespace {

constexpr uint32_t kBlockTokens = 20;  // divides 1000 tokens, so that the examples' "1 K" are whole blocks
constexpr InstanceId kDebtor{0}, kCreditor{1};
constexpr RequestId kLong{1, 1};

// The examples: 396 us a layer without attention, 12.8 us per 1000 tokens, 40 layers; remote attention is
// free but for its compute.
CostModel ExampleCost() {
  return CostModel({.layers = 40, .profile = {.weights_seconds = 396e-6, .token_seconds = 12.8e-9}});
}

// Debtor: one 40 K request and 17 of 1 K, `waiting` more of 1 K. Creditor: 20 of 1 K. Pools of 57 K tokens.
ClusterState Example(uint32_t waiting) {
  const uint32_t k = 1000 / kBlockTokens;
  ClusterState state;
  state.instances = {{.id = kDebtor,
                      .blocks_total = 57 * k,
                      .blocks_free = 0,
                      .batch = 18,
                      .waiting = waiting,
                      .waiting_tokens = 1000.0 * waiting,
                      .own_tokens = 57000},
                     {.id = kCreditor,
                      .blocks_total = 57 * k,
                      .blocks_free = 37 * k,
                      .blocks_lendable = 37 * k,
                      .batch = 20,
                      .own_tokens = 20000}};
  state.placements = {
      {.request = kLong, .home = kDebtor, .host = kDebtor, .blocks = 40 * k, .movable = 40 * k}};
  return state;
}

PlanOptions ExampleOptions() { return {.block_tokens = kBlockTokens, .keep_local = 0, .moves_max = 1}; }

double PairAt(const ClusterState& state, uint32_t thousand_tokens) {
  return PredictPair(
      state, ExampleCost(), ExampleOptions(),
      {.request = kLong, .from = kDebtor, .to = kCreditor, .blocks = thousand_tokens * 1000 / kBlockTokens});
}

TEST(PlannerTest, TheGainWithAnEndlessQueueMatchesTheTable) {
  const ClusterState state = Example(1000000);
  const std::vector<std::pair<uint32_t, double>> sums = {{0, 1167},  {8, 1240},  {16, 1339},
                                                         {24, 1454}, {32, 1582}, {36, 1649}};
  const std::vector<double> gains = {1.00, 1.06, 1.15, 1.25, 1.36, 1.41};
  for (size_t i = 0; i < sums.size(); ++i) {
    // The table adds the two columns after rounding each.
    EXPECT_NEAR(PairAt(state, sums[i].first), sums[i].second, 1.0) << sums[i].first << " K moved";
    EXPECT_NEAR(PairAt(state, sums[i].first) / PairAt(state, 0), gains[i], 0.005)
        << sums[i].first << " K moved";
  }
}

TEST(PlannerTest, TheTablesColumnsForEachSideMatch) {
  const CostModel cost = ExampleCost();
  struct Row {
    uint32_t moved, batch;
    double debtor_us, creditor_us, debtor_tps, creditor_tps;
  };
  for (const Row& row : std::vector<Row>{{0, 18, 1126, 652, 400, 767},
                                         {8, 26, 1126, 754, 577, 663},
                                         {16, 34, 1126, 857, 755, 584},
                                         {24, 42, 1126, 959, 933, 521},
                                         {32, 50, 1126, 1062, 1111, 471},
                                         {36, 54, 1126, 1113, 1199, 449}}) {
    std::vector<CostModel::RemotePart> remote;
    if (row.moved > 0) remote.push_back({1, row.moved * 1000.0, 1});
    EXPECT_NEAR(cost.LayerSeconds(0, row.batch, 57000, remote) * 1e6, row.debtor_us, 0.5);
    EXPECT_NEAR(cost.LayerSeconds(1, 20, 20000 + row.moved * 1000, {}) * 1e6, row.creditor_us, 0.5);
    EXPECT_NEAR(cost.TokensPerSecond(0, row.batch, 57000, remote), row.debtor_tps, 0.6);
    EXPECT_NEAR(cost.TokensPerSecond(1, 20, 20000 + row.moved * 1000, {}), row.creditor_tps, 0.6);
  }
}

TEST(PlannerTest, TheGainWithTenWaitingRequestsIsNotConcaveAndMatchesTheTable) {
  const ClusterState state = Example(10);
  const double now = PairAt(state, 0);
  EXPECT_NEAR(PairAt(state, 10) / now, 1.083, 0.0006);
  EXPECT_NEAR(PairAt(state, 16) / now, 1.072, 0.0006);
  EXPECT_NEAR(PairAt(state, 18) / now, 1.072, 0.0006);
  EXPECT_NEAR(PairAt(state, 33) / now, 1.121, 0.0006);
  EXPECT_NEAR(PairAt(state, 40) / now, 1.03, 0.005);
  EXPECT_GT(PairAt(state, 10), PairAt(state, 14));
  EXPECT_LT(PairAt(state, 18), PairAt(state, 33));
}

TEST(PlannerTest, GreedyMovesAsMuchAsTheCreditorHoldsWhenTheQueueIsEndless) {
  const std::vector<Move> moves = Plan(Example(1000000), ExampleCost(), ExampleOptions());
  ASSERT_EQ(moves.size(), 1);
  EXPECT_EQ(moves[0].request, kLong);
  EXPECT_EQ(moves[0].from, kDebtor);
  EXPECT_EQ(moves[0].to, kCreditor);
  EXPECT_EQ(moves[0].blocks * kBlockTokens, 37000);
  EXPECT_GT(moves[0].gain, 1.41);
}

TEST(PlannerTest, GreedyFindsTheSecondAndHigherMaximum) {
  const std::vector<Move> moves = Plan(Example(10), ExampleCost(), ExampleOptions());
  ASSERT_EQ(moves.size(), 1);
  // Local and remote attention balance where 67 K - x = x.
  EXPECT_EQ(moves[0].blocks * kBlockTokens, 33500 / kBlockTokens * kBlockTokens);
  EXPECT_NEAR(moves[0].gain, 1.121, 0.005);
}

TEST(PlannerTest, ASharedPrefixGoesFirstAndWhole) {
  ClusterState state = Example(1000000);
  state.placements[0].movable = 200;
  state.placements[0].shared = 300, state.placements[0].readers = 4;
  const double moved = 300.0 * kBlockTokens;
  const std::vector<Move> moves = Plan(state, ExampleCost(), ExampleOptions());
  ASSERT_EQ(moves.size(), 1);
  EXPECT_EQ(moves[0].request, kLong);
  EXPECT_EQ(moves[0].blocks, 300);
  EXPECT_EQ(moves[0].readers, 4);
  // The creditor attends to it once, the home did so for each reader; what is freed is taken by 6 of those
  // that wait.
  const CostModel cost = ExampleCost();
  const double after = cost.TokensPerSecond(0, 18 + 6, 57000 - 4 * moved + 6000, {{1, moved, 4}}) +
                       cost.TokensPerSecond(1, 20, 20000 + moved, {});
  EXPECT_NEAR(moves[0].gain, after / PairAt(state, 0), 1e-9);
  EXPECT_NEAR(PredictPair(state, cost, ExampleOptions(), moves[0]), after, 1e-6);
}

TEST(PlannerTest, ASharedPrefixThatDoesNotFitIsLeftWhole) {
  ClusterState state = Example(1000000);
  state.placements[0].movable = 200;
  state.placements[0].shared = 300, state.placements[0].readers = 4;
  state.instances[1].blocks_lendable = 299;
  std::vector<Move> moves = Plan(state, ExampleCost(), ExampleOptions());
  ASSERT_EQ(moves.size(), 1);
  EXPECT_EQ(moves[0].readers, 1);
  EXPECT_EQ(moves[0].blocks, 200) << "what is private";
  state.instances[1].blocks_lendable = 300;
  state.placements[0].readers = 1;  // the others have ended
  moves = Plan(state, ExampleCost(), ExampleOptions());
  ASSERT_EQ(moves.size(), 1);
  EXPECT_EQ(moves[0].blocks, 200);
}

TEST(PlannerTest, PolicyNoneNeverMoves) {
  PlanOptions options = ExampleOptions();
  options.policy = PlanPolicy::kNone;
  EXPECT_TRUE(Plan(Example(1000000), ExampleCost(), options).empty());
}

TEST(PlannerTest, SharedBlocksAndTheLastBlockStay) {
  ClusterState state = Example(1000000);
  state.placements[0].movable = 100;
  PlanOptions options = ExampleOptions();
  options.gain_min = 1;
  std::vector<Move> moves = Plan(state, ExampleCost(), options);
  ASSERT_EQ(moves.size(), 1);
  EXPECT_EQ(moves[0].blocks, 100);
  state.placements[0].movable = state.placements[0].blocks = 101;
  options.keep_local = 1;
  moves = Plan(state, ExampleCost(), options);
  ASSERT_EQ(moves.size(), 1);
  EXPECT_EQ(moves[0].blocks, 100);  // keep_local stays
  state.placements[0].movable = 0;
  EXPECT_TRUE(Plan(state, ExampleCost(), options).empty());
}

TEST(PlannerTest, AFullOrCautiousCreditorGetsNothing) {
  ClusterState state = Example(1000000);
  state.instances[1].blocks_lendable = 0;
  EXPECT_TRUE(Plan(state, ExampleCost(), ExampleOptions()).empty());
  state = Example(1000000);
  state.instances[1].blocks_free = state.instances[1].blocks_total / 10;  // above theta_mem
  EXPECT_TRUE(Plan(state, ExampleCost(), ExampleOptions()).empty());
}

TEST(PlannerTest, ASlowLinkKeepsRequestsAtHome) {
  const CostModel slow({.layers = 40,
                        .wire = {.query_bytes = 10240, .state_bytes = 20800},
                        .link = {.bytes_per_second = 125e6, .latency_seconds = 2e-3},
                        .profile = {.weights_seconds = 396e-6, .token_seconds = 12.8e-9}});
  EXPECT_TRUE(Plan(Example(1000000), slow, ExampleOptions()).empty());
}

struct Cluster {
  ClusterState state;
  CostModel cost{CostModel::Options{}};
  PlanOptions options;
};

Cluster RandomCluster(uint64_t seed, bool short_only) {
  std::mt19937_64 random(seed);
  const auto draw = [&](uint32_t low, uint32_t high) {
    return low + static_cast<uint32_t>(random() % (high - low + 1));
  };
  Cluster c;
  c.cost = CostModel({.layers = draw(1, 80),
                      .merge_seconds = draw(0, 10) * 1e-6,
                      .link = {.bytes_per_second = 1e9 * draw(0, 20), .latency_seconds = draw(0, 20) * 1e-6},
                      .profile = {.weights_seconds = 1e-6 * draw(50, 500),
                                  .row_seconds = 1e-6 * draw(0, 5),
                                  .token_seconds = 1e-9 * draw(1, 20)}});
  c.options = {.block_tokens = 32,
               .theta_mem = 0.01 * draw(50, 100),
               .gain_min = short_only ? 1.02 : 1.0,
               .keep_local = draw(0, 4),
               .move_blocks_max = draw(1, 2000),
               .moves_max = draw(1, 20)};
  if (short_only) c.options.request_blocks_min = 64;
  const uint32_t n = draw(1, 8);
  uint64_t number = 0;
  for (uint32_t i = 0; i < n; ++i) {
    InstanceState instance{
        .id = InstanceId{i}, .blocks_total = draw(100, 2000), .batch = draw(0, 60), .waiting = draw(0, 30)};
    instance.waiting_tokens = instance.waiting * double{1} * draw(10, 2000);
    uint32_t left = instance.blocks_total;
    for (uint32_t r = 0; r < instance.batch && left > 0; ++r) {
      const uint32_t longest = short_only ? 40 : (r == 0 ? 1500 : 40);
      const uint32_t blocks = draw(1, std::min(left, longest));
      left -= blocks;
      instance.own_tokens += blocks * 32.0;
      c.state.placements.push_back({.request = {draw(0, 9), ++number},
                                    .home = instance.id,
                                    .host = instance.id,
                                    .blocks = blocks,
                                    .movable = draw(0, blocks)});
    }
    instance.blocks_free = left;
    instance.blocks_lendable = draw(0, left);
    c.state.instances.push_back(instance);
  }
  return c;
}

TEST(PlannerTest, EveryMoveIsLegalAloneAndTogetherAndThePlanIsDeterministic) {
  size_t planned = 0;
  for (uint64_t seed = 0; seed < 500; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Cluster c = RandomCluster(seed, false);
    const std::vector<Move> moves = Plan(c.state, c.cost, c.options);
    planned += moves.size();
    ASSERT_LE(moves.size(), c.options.moves_max);
    std::map<InstanceId, uint32_t> arriving;
    std::map<RequestId, uint32_t> leaving;
    std::set<InstanceId> from, to;
    for (const Move& move : moves) {
      ASSERT_GT(move.blocks, 0);
      ASSERT_LE(move.blocks, c.options.move_blocks_max);
      ASSERT_GE(move.gain, c.options.gain_min);
      ASSERT_NE(move.from, move.to);
      from.insert(move.from);
      to.insert(move.to);
      arriving[move.to] += move.blocks;
      leaving[move.request] += move.blocks;
    }
    for (InstanceId id : from) ASSERT_FALSE(to.contains(id)) << "debtor and creditor in one round";
    for (const auto& [id, blocks] : arriving) ASSERT_LE(blocks, c.state.instances[Value(id)].blocks_lendable);
    for (const auto& [request, blocks] : leaving) {
      for (const Placement& p : c.state.placements) {
        if (p.request != request) continue;
        ASSERT_LE(blocks, p.movable);
        ASSERT_LE(blocks + c.options.keep_local, p.blocks);
        ASSERT_TRUE(from.contains(p.home));
      }
    }
    // The order in which facts were gathered must not matter.
    std::shuffle(c.state.placements.begin(), c.state.placements.end(), std::mt19937_64(seed));
    std::shuffle(c.state.instances.begin(), c.state.instances.end(), std::mt19937_64(seed));
    const std::vector<Move> again = Plan(c.state, c.cost, c.options);
    ASSERT_EQ(again.size(), moves.size());
    for (size_t i = 0; i < moves.size(); ++i) {
      ASSERT_EQ(std::tie(again[i].request, again[i].from, again[i].to, again[i].blocks),
                std::tie(moves[i].request, moves[i].from, moves[i].to, moves[i].blocks));
    }
  }
  EXPECT_GT(planned, 100) << "the random clusters hardly ever plan anything: the test is empty";
}

TEST(PlannerTest, RequestsBelowTheMinimumLengthAreLeftAlone) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const Cluster c = RandomCluster(seed, true);
    ASSERT_THAT(Plan(c.state, c.cost, c.options), testing::IsEmpty()) << "seed " << seed;
  }
}

// Method: the examples' hardware, every instance serving 1 K requests only, some with long queues, no lower
// limit on length.
TEST(PlannerTest, ALoadOfShortRequestsOnlyCausesNoMoves) {
  const uint32_t k = 1000 / kBlockTokens;
  ClusterState state;
  for (uint32_t i = 0; i < 4; ++i) {
    const uint32_t batch = 57 - 10 * i;
    state.instances.push_back({.id = InstanceId{i},
                               .blocks_total = 57 * k,
                               .blocks_free = (57 - batch) * k,
                               .blocks_lendable = (57 - batch) * k,
                               .batch = batch,
                               .waiting = i == 0 ? 1000u : 0u,
                               .waiting_tokens = i == 0 ? 1e6 : 0,
                               .own_tokens = 1000.0 * batch});
    for (uint32_t r = 0; r < batch; ++r) {
      state.placements.push_back(
          {.request = {r, i}, .home = InstanceId{i}, .host = InstanceId{i}, .blocks = k, .movable = k});
    }
  }
  PlanOptions options{.block_tokens = kBlockTokens, .request_blocks_min = 1};
  EXPECT_THAT(Plan(state, ExampleCost(), options), testing::IsEmpty());
}

}  // namespace
}  // namespace lombard
