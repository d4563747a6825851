// Goal: wherever the KV of a request lies, and whatever runs beside it, it gives the tokens that one big
// instance gives. The golden ids are float64's; an fp32 runtime may differ only where the two best logits are
// closer than fp32 can tell apart (design: 0.001). Method: in-process clusters of 1, 2 and 4 workers with
// ample and with tiny uneven budgets; free and lent-away blocks hold NaN.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/support/tiny_model.h"

namespace lombard {
namespace {

struct Golden {
  std::vector<int32_t> prompt, output;
  std::vector<double> gaps;
};

class LendingTest : public TinyModelTest {
 protected:
  static void SetUpTestSuite() {
    TinyModelTest::SetUpTestSuite();
    const nlohmann::json file = nlohmann::json::parse(std::ifstream(TestPath("tests/data/tiny-golden.json")));
    for (const auto& c : file["cases"])
      goldens_.push_back({c["prompt_ids"], c["greedy_ids"], c["top1_top2_gap"]});
  }

  // Equal, or first different where float64 saw the two best within 0.001.
  static void ExpectGolden(const Golden& golden, const std::vector<int32_t>& ids, absl::string_view where) {
    ASSERT_GE(ids.size(), 16u) << where;
    ASSERT_LE(ids.size(), golden.output.size()) << where;
    for (size_t i = 0; i < ids.size(); ++i) {
      if (ids[i] == golden.output[i]) continue;
      EXPECT_LT(golden.gaps[i], 0.001)
          << where << ": token " << i << " of the prompt of " << golden.prompt.size() << " tokens";
      return;
    }
  }

  static std::vector<Golden> goldens_;
};
std::vector<Golden> LendingTest::goldens_;

std::vector<TestSequence> AllOf(const std::vector<Golden>& goldens, uint32_t max_tokens) {
  std::vector<TestSequence> sequences;
  for (const Golden& golden : goldens)
    sequences.push_back({.prompt = golden.prompt, .sampling = Greedy(max_tokens), .home = {}});
  return sequences;
}

TEST_F(LendingTest, OneInstanceGivesTheGoldenTokens) {
  const ClusterRun run = Run(TestSettings(*model_, {200}, 16), AllOf(goldens_, 64));
  for (size_t i = 0; i < goldens_.size(); ++i)
    ExpectGolden(goldens_[i], run.results[i].token_ids, "one instance");
}

TEST_F(LendingTest, EveryPlacementGivesTheGoldenTokensAndTheSameLogprobs) {
  const ClusterRun alone = Run(TestSettings(*model_, {200}, 16), AllOf(goldens_, 64));
  // Blocks of 16 tokens; the longest request needs 94.
  const std::vector<std::vector<uint32_t>> budgets = {
      {100, 100}, {60, 50}, {100, 100, 100, 100}, {13, 26, 52, 13}, {30, 5, 60, 7}};
  for (const auto& budget : budgets) {
    const ClusterRun run = Run(TestSettings(*model_, budget, 16), AllOf(goldens_, 64));
    const std::string where = testing::PrintToString(budget);
    for (size_t i = 0; i < goldens_.size(); ++i) {
      ASSERT_TRUE(run.results[i].error.ok()) << where << run.results[i].error;
      ExpectGolden(goldens_[i], run.results[i].token_ids, where);
      for (size_t t = 0; t < run.results[i].token_ids.size(); ++t) {
        if (run.results[i].token_ids[t] != alone.results[i].token_ids[t]) break;
        ASSERT_NEAR(run.results[i].logprobs[t], alone.results[i].logprobs[t], 1e-3)
            << where << " request " << i << " token " << t;
      }
    }
  }
}

TEST_F(LendingTest, WithATinyHomeMostDecodeStepsAreAttendedByCreditors) {
  const Golden& longest =
      *std::max_element(goldens_.begin(), goldens_.end(),
                        [](const Golden& a, const Golden& b) { return a.prompt.size() < b.prompt.size(); });
  const ClusterRun run = Run(TestSettings(*model_, {4, 40, 30, 30}, 16),
                             {{.prompt = longest.prompt, .sampling = Greedy(64), .home = InstanceId{0}}});
  ExpectGolden(longest, run.results[0].token_ids, "tiny home");
  for (int creditor = 1; creditor <= 3; ++creditor) {
    EXPECT_GE(run.services[creditor].steps, 32u)
        << "creditor " << creditor;  // half of the decode steps; its own counter
  }
}

TEST_F(LendingTest, WireBytesAreExactlyTheFormula) {
  for (const bool compact : {false, true}) {
    WorkerSettings settings = TestSettings(*model_, {40, 80}, 16);
    settings.compact_states = compact;
    const uint32_t prompt_tokens = 900, max_tokens = 20;
    std::vector<int32_t> prompt(goldens_[6].prompt.begin(), goldens_[6].prompt.begin() + prompt_tokens);
    const ClusterRun run =
        Run(settings, {{.prompt = prompt, .sampling = Greedy(max_tokens), .home = InstanceId{0}}});
    const ModelConfig& c = model_->config();
    // Rows the creditor attended, per its own counter; in this run every remote row goes to the one creditor.
    const uint64_t rows_times_layers = run.services[1].queries;
    EXPECT_EQ(rows_times_layers % c.layers, 0u);
    EXPECT_GE(rows_times_layers, uint64_t{max_tokens - 1} * c.layers);
    const uint64_t p = DTypeBytes(c.dtype), nq = c.q_heads, d = c.head_dim;
    EXPECT_EQ(run.reports[0].payload_bytes(static_cast<int>(Channel::kQuery)),
              rows_times_layers * nq * d * p);
    EXPECT_EQ(run.reports[1].payload_bytes(static_cast<int>(Channel::kState)),
              rows_times_layers * nq * (compact ? d * p + 8 : d * 4 + 8));
    // Every block that was lent crossed once: K and V of all layers.
    const uint64_t block_bytes = 16 * c.KvBytesPerToken(c.dtype);
    EXPECT_EQ(run.reports[0].payload_bytes(static_cast<int>(Channel::kKv)) % block_bytes, 0u);
    EXPECT_EQ(run.reports[0].payload_bytes(static_cast<int>(Channel::kKv)),
              run.services[1].blocks_written / c.layers * block_bytes);
  }
}

TEST_F(LendingTest, ARequestOfNearlyTheSumOfAllMemoryCompletes) {
  // 8 + 16 + 32 + 8 = 64 blocks of 16: 1024 tokens; 95 % are 972.
  for (uint32_t home = 0; home < 4; ++home) {
    const std::vector<int32_t> prompt(goldens_[6].prompt.begin(), goldens_[6].prompt.begin() + 940);
    const std::vector<TestSequence> one = {
        {.prompt = prompt, .sampling = Greedy(32), .home = InstanceId{home}}};
    const ClusterRun run = Run(TestSettings(*model_, {8, 16, 32, 8}, 16), one);
    const ClusterRun alone =
        Run(TestSettings(*model_, {64}, 16), {{.prompt = prompt, .sampling = Greedy(32), .home = {}}});
    ASSERT_TRUE(run.results[0].error.ok()) << run.results[0].error;
    EXPECT_EQ(run.results[0].token_ids, alone.results[0].token_ids) << "home " << home;
  }
}

TEST_F(LendingTest, ARequestLargerThanTheSumIsRefusedAtOnceWithBothNumbers) {
  const std::vector<int32_t> prompt(goldens_[6].prompt.begin(), goldens_[6].prompt.begin() + 1000);
  const ClusterRun run = Run(TestSettings(*model_, {8, 16, 32, 8}, 16),
                             {{.prompt = prompt, .sampling = Greedy(40), .home = {}}});
  EXPECT_EQ(run.results[0].error.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(run.results[0].error.message()),
              testing::AllOf(testing::HasSubstr("1040 tokens"), testing::HasSubstr("1024 tokens")));
  EXPECT_TRUE(run.results[0].token_ids.empty());
}

TEST_F(LendingTest, WithoutLendingARequestLargerThanItsHomeIsRefusedAtOnceWithBothNumbers) {
  WorkerSettings settings = TestSettings(*model_, {8, 16, 32, 8}, 16);
  settings.engine.lending = false;
  const std::vector<int32_t> prompt(goldens_[6].prompt.begin(), goldens_[6].prompt.begin() + 500);
  const ClusterRun run = Run(settings, {{.prompt = prompt, .sampling = Greedy(40), .home = InstanceId{0}}});
  EXPECT_EQ(run.results[0].error.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(run.results[0].error.message()),
              testing::AllOf(testing::HasSubstr("540 tokens"), testing::HasSubstr("128 tokens")));
}

TEST_F(LendingTest, EightRequestsOfMostOfTheSumArrivingTogetherAllComplete) {
  std::vector<TestSequence> sequences;
  for (uint32_t i = 0; i < 8; ++i) {  // 60 % of 1024 tokens each, two per instance
    const auto begin = goldens_[6].prompt.begin() + 20 * i;
    sequences.push_back({.prompt = {begin, begin + 590}, .sampling = Greedy(24), .home = InstanceId{i % 4}});
  }
  for (uint32_t i = 0; i < 12; ++i) {
    const Golden& golden = goldens_[i % 3];
    sequences.push_back({.prompt = golden.prompt, .sampling = Greedy(16), .home = InstanceId{i % 4}});
  }
  const ClusterRun run = Run(TestSettings(*model_, {8, 16, 32, 8}, 16), sequences);
  for (size_t i = 0; i < sequences.size(); ++i) {
    EXPECT_TRUE(run.results[i].error.ok()) << run.results[i].error;
    EXPECT_EQ(run.results[i].token_ids.size(), sequences[i].sampling.max_tokens) << "request " << i;
  }
  for (uint32_t i = 0; i < 12; ++i)
    ExpectGolden(goldens_[i % 3], run.results[8 + i].token_ids, "short ones beside");
}

TEST_F(LendingTest, WithoutLendingMemoryPressurePreemptsTheYoungestAndLosesNothing) {
  WorkerSettings settings = TestSettings(*model_, {12}, 16);
  settings.engine.headroom_tokens = 1;
  std::vector<TestSequence> sequences;
  for (int i = 0; i < 6; ++i)
    sequences.push_back({.prompt = goldens_[i % 3].prompt, .sampling = Greedy(64), .home = {}});
  const ClusterRun run = Run(settings, sequences);
  for (int i = 0; i < 6; ++i) ExpectGolden(goldens_[i % 3], run.results[i].token_ids, "under pressure");
  EXPECT_GT(run.reports[0].preemptions(), 0u);
}

TEST_F(LendingTest, ThePlannerMovesALongRequestAwayFromWaitingShortOnesWhileItDecodes) {
  WorkerSettings settings = TestSettings(*model_, {75, 300}, 16);
  settings.engine.borrow_patience = absl::Seconds(60);  // the short ones wait for the planner
  settings.gmanager.plan_period = absl::Milliseconds(10);
  settings.gmanager.plan.block_tokens = 16;
  settings.gmanager.plan.theta_batch = 16;  // below this many an instance is memory-starved
  // Plans by a profile with which moves pay; measured ones depend on who else uses the machine.
  settings.gmanager.cost.one_profile = true;
  settings.gmanager.cost.profile = {.weights_seconds = 1e-3, .row_seconds = 1e-6, .token_seconds = 1e-8};
  const std::vector<int32_t> prompt(goldens_[6].prompt.begin(), goldens_[6].prompt.begin() + 1000);
  const TestSequence longest = {.prompt = prompt, .sampling = Greedy(600), .home = InstanceId{0}};
  std::vector<TestSequence> sequences = {longest};
  for (int i = 0; i < 12; ++i) {
    sequences.push_back({.prompt = goldens_[4].prompt, .sampling = Greedy(64), .home = InstanceId{0}});
  }
  ClusterRun run = Run(settings, sequences);
  // On a busy machine the moment for a move may pass.
  for (int again = 0; again < 4 && run.manager.blocks_moved == 0; ++again) run = Run(settings, sequences);
  const ClusterRun alone = Run(TestSettings(*model_, {200}, 16), {longest});
  // Equal up to a near tie, which 600 tokens may hold; the log-probabilities before it must agree.
  for (size_t t = 0; t < 600 && run.results[0].token_ids[t] == alone.results[0].token_ids[t]; ++t) {
    ASSERT_NEAR(run.results[0].logprobs[t], alone.results[0].logprobs[t], 1e-3) << "token " << t;
  }
  EXPECT_EQ(run.results[0].token_ids.size(), 600u);
  for (int i = 1; i <= 12; ++i) ExpectGolden(goldens_[4], run.results[i].token_ids, "beside");
  EXPECT_GT(run.manager.moves_sent, 0u);
  EXPECT_GT(run.manager.blocks_moved, 0u);
  EXPECT_GT(run.reports[0].remote_steps(), 0u);
}

TEST_F(LendingTest, BlocksBehindTheWindowAreReleasedWhereverTheyLie) {
  // Random weights of 96 tokens, window 24 in every layer; the tokenizer only has to spell the ids.
  const auto model = Model::Load(TestPath("tests/data/architectures/mistral-window-d32"));
  ASSERT_TRUE(model.ok()) << model.status();
  std::vector<int32_t> prompt;
  for (int i = 0; i < 120; ++i) prompt.push_back(3 + (i * 37) % 90);
  const auto run = [&](std::vector<uint32_t> kv_blocks) {
    WorkerSettings settings = TestSettings(**model, std::move(kv_blocks), 4);
    settings.engine.headroom_tokens = 8;
    auto result = RunOnCluster(settings, **model, *tokenizer_,
                               {{.prompt = prompt, .sampling = Greedy(100), .home = InstanceId{0}}});
    EXPECT_TRUE(result.ok()) << result.status();
    EXPECT_TRUE(result->invariants.ok()) << result->invariants;
    return *std::move(result);
  };
  const ClusterRun alone = run({55}), split = run({12, 40, 40});
  EXPECT_GT(split.reports[0].remote_steps(), 0u);
  EXPECT_EQ(split.results[0].token_ids, alone.results[0].token_ids);
  // 220 tokens are 55 blocks; the window needs 7. What was reserved for the prompt is the most that was ever
  // held.
  EXPECT_LE(alone.reports[0].kv_used_max(), 4u * 33);
}

}  // namespace
}  // namespace lombard
