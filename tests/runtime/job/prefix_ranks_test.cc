// Goal: a prefix that lies at one rank is read by requests of others, with the tokens that they have without
// any cache, its keys read once for all readers of a rank, and never under another salt. Method: the first
// wave leaves the prefix where it was computed, later ones are sent elsewhere.
#include "tests/runtime/job/prefix_fixture.h"

namespace lombard {
namespace {

class PrefixRanksTest : public PrefixTest {
 protected:
  static WorkerSettings Settings(std::vector<uint32_t> kv_blocks) {
    WorkerSettings settings = TestSettings(*model_, std::move(kv_blocks), kBlock);
    settings.engine.remote_prefix_min = kBlock;
    settings.engine.copy_prefixes = false;
    settings.guard = 1e6;  // what the holders' own requests can bear is another test's matter
    return settings;
  }
  TestSequence At(uint32_t home, int wave, const std::vector<int32_t>& head, size_t own) {
    TestSequence sequence = After(head, own);
    sequence.home = InstanceId{home};
    sequence.wave = wave;
    return sequence;
  }
};

TEST_F(PrefixRanksTest, AllReadersOfARankReadItAtOnceWhereItLies) {
  const std::vector<int32_t> head = Tokens(20 * kBlock);
  std::vector<TestSequence> sequences = {At(0, 0, head, 4)};
  for (int i = 0; i < 6; ++i) sequences.push_back(At(1, 1, head, 4));
  for (int i = 0; i < 4; ++i) sequences.push_back(At(2, 1, head, 4));
  const WorkerSettings settings = Settings({100, 100, 100});
  EXPECT_EQ(ExpectEqualTokens(settings, sequences).prefixes, 10u);

  const ClusterRun run = Run(settings, true, sequences);
  const uint64_t layers = model_->config().layers, steps_1 = run.reports[1].remote_steps(),
                 steps_2 = run.reports[2].remote_steps();
  const RemoteService::Counters& served = run.services[0];
  EXPECT_EQ(served.queries, layers * 10 * (4 + kOutput - 1));
  EXPECT_EQ(served.keys, served.products * 20 * kBlock) << "s keys a product, not b * s";
  EXPECT_LE(served.products, layers * (steps_1 + steps_2)) << "one for all readers of a rank";
  EXPECT_GE(served.products, layers * std::max(steps_1, steps_2));  // for those of both where they meet
  // Of their own, 4 tokens in the first step, then one more in each.
  uint64_t own = 0;
  for (uint64_t keys = 4; keys < 4 + kOutput; ++keys) own += keys;
  EXPECT_EQ(run.reports[1].keys_read(), 6 * own);
  EXPECT_EQ(run.reports[2].keys_read(), 4 * own);
}

TEST_F(PrefixRanksTest, ATreeOfTwoLevelsOnTwoAndFourRanks) {
  const std::vector<int32_t> top = Tokens(6 * kBlock);
  std::vector<std::vector<int32_t>> documents;
  for (int i = 0; i < 8; ++i) documents.push_back(After(top, 4 * kBlock).prompt);
  for (const uint32_t ranks : {2u, 4u}) {
    std::vector<TestSequence> sequences;
    for (uint32_t i = 0; i < 8; ++i) sequences.push_back(At(i % ranks, 0, documents[i], 3));
    for (uint32_t i = 0; i < 64; ++i) sequences.push_back(At(i / 8 % ranks, 1, documents[i % 8], 5 + i % 7));
    WorkerSettings settings = Settings(std::vector<uint32_t>(ranks, 300));
    EXPECT_GT(ExpectEqualTokens(settings, sequences).prefixes, 0u) << ranks;  // how many: a race
    settings.engine.copy_prefixes = true;
    settings.engine.max_batch_tokens = 24;  // chunks of a few tokens behind a prefix elsewhere
    ExpectEqualTokens(settings, sequences);
    settings.engine.remote_prefix_min = ~0u;
    EXPECT_EQ(ExpectEqualTokens(settings, sequences).prefixes, 0u) << ranks;
  }
}

TEST_F(PrefixRanksTest, ComesHomeForAllReadersWhenTheirRowsHaveCostMore) {
  const std::vector<int32_t> head = Tokens(4 * kBlock);
  std::vector<TestSequence> sequences = {At(0, 0, head, 4)};
  for (int i = 0; i < 12; ++i) sequences.push_back(At(1, 1, head, 4 + i));
  for (int i = 0; i < 3; ++i) sequences.push_back(At(1, 2, head, 5 + i));
  WorkerSettings settings = Settings({100, 100});
  settings.engine.copy_prefixes = true;
  const Totals totals = ExpectEqualTokens(settings, sequences);
  EXPECT_EQ(totals.copied, 1u);
  EXPECT_GT(totals.prefixes, 0u);
  EXPECT_LE(totals.prefixes, 12u);
  EXPECT_GE(totals.hit, 3u * 4 * kBlock) << "the last wave finds it at home";
}

TEST_F(PrefixRanksTest, ATenantsPrefixIsReadUnderItsSaltOnly) {
  const std::vector<int32_t> head = Tokens(8 * kBlock);
  for (const auto& [salt, expected] : std::map<std::string, uint64_t>{{"a", 1}, {"b", 0}, {"", 0}}) {
    std::vector<TestSequence> sequences = {At(0, 0, head, 4), At(1, 1, head, 4)};
    sequences[0].cache_salt = std::string(1, 'a');
    sequences[1].cache_salt = salt;
    const Totals totals = ExpectEqualTokens(Settings({50, 50}), sequences);
    EXPECT_EQ(totals.prefixes, expected) << "salt '" << salt << "'";
    EXPECT_EQ(totals.hit, 0u);
  }
}

// Whoever comes first; that a holder gets its memory is shown in prefix_elsewhere_test.
TEST_F(PrefixRanksTest, TokensAreEqualWhenTheHolderNeedsItsMemory) {
  const std::vector<int32_t> head = Tokens(12 * kBlock);
  std::vector<TestSequence> sequences = {At(0, 0, head, 4)};
  for (int i = 0; i < 3; ++i) sequences.push_back(At(1, 1, head, 4));
  for (int i = 0; i < 3; ++i) sequences.push_back(At(0, 1, {}, 18 * kBlock));
  ExpectEqualTokens(Settings({20, 60}), sequences);
}

TEST_F(PrefixRanksTest, WhatIsWantedAtSeveralRanksAtOnceIsComputedAtOne) {
  for (const uint32_t ranks : {2u, 4u}) {
    const std::vector<int32_t> head = Tokens(20 * kBlock);
    std::vector<TestSequence> sequences;
    for (uint32_t i = 0; i < 3 * ranks; ++i) sequences.push_back(At(i % ranks, 0, head, 4 + i));
    WorkerSettings settings = Settings(std::vector<uint32_t>(ranks, 100));
    settings.engine.max_batch_tokens = 24;  // it takes many steps
    settings.engine.prefix_patience = absl::InfiniteDuration();
    const Totals totals = ExpectEqualTokens(settings, sequences);
    EXPECT_EQ(totals.prefixes, 3u * (ranks - 1)) << "each of the others reads it where it was computed";
    EXPECT_EQ(totals.hit, 2u * 20 * kBlock) << "and those that came there with the first find it";
  }
}

TEST_F(PrefixRanksTest, TheFrontDoorSendsRequestsWhereTheirPrefixIs) {
  const std::vector<int32_t> head = Tokens(10 * kBlock);
  std::vector<TestSequence> sequences = {After(head, 4)};
  for (int i = 0; i < 5; ++i) {
    sequences.push_back(After(head, 4));
    sequences.back().wave = 1;
  }
  const ClusterRun run = Run(Settings({100, 100}), true, sequences);
  EXPECT_EQ(Sum(run).hit, 5u * 10 * kBlock);
  EXPECT_EQ(run.reports[1].steps(), 0u);
}

}  // namespace
}  // namespace lombard
