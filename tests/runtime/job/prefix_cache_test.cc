// Goal: with the prefix cache on, every request gives the tokens that it gives with the cache off, however
// the prompts share, and what is shared is computed once.
#include "tests/runtime/job/prefix_fixture.h"
#include "tests/support/loan_bench.h"

namespace lombard {
namespace {

class PrefixCacheTest : public PrefixTest {
 protected:
  // Of one layer, by one instance that has all requests before its first step.
  static uint64_t KeysRead(const SharingCost& sharing, const std::vector<TestSequence>& sequences) {
    LoanBench bench(
        {.kv_blocks = {200}, .engine = {.block_tokens = kBlock, .max_model_len = 4096, .sharing = sharing}},
        model_, tokenizer_);
    for (const TestSequence& sequence : sequences) bench.Submit(sequence.prompt, kOutput);
    EXPECT_TRUE(bench.Run()) << bench.error();
    return bench.keys_read();
  }
};

TEST_F(PrefixCacheTest, ATreeOfTwoLevelsIsComputedOncePerNode) {
  std::vector<TestSequence> sequences;
  const std::vector<int32_t> top = Tokens(6 * kBlock);
  for (int document = 0; document < 8; ++document) {
    std::vector<int32_t> middle = After(top, 4 * kBlock).prompt;
    for (int question = 0; question < 8; ++question) sequences.push_back(After(middle, 5 + question));
  }
  const Totals totals = ExpectEqualTokens(TestSettings(*model_, {800}, kBlock), sequences);
  // All arrive together: the first of all computes the top, the first of each document its middle.
  EXPECT_EQ(totals.hit, 63u * 6 * kBlock + 56u * 4 * kBlock);
  EXPECT_EQ(totals.evicted, 0u);
}

TEST_F(PrefixCacheTest, WhatManyReadIsReadOnceAStep) {
  std::vector<TestSequence> sequences;
  const std::vector<int32_t> head = Tokens(20 * kBlock);
  for (int i = 0; i < 16; ++i) sequences.push_back(After(head, 4));
  WorkerSettings settings = TestSettings(*model_, {200}, kBlock);
  settings.sharing = SharingCost::OfReading(64);
  ExpectEqualTokens(settings, sequences);
  const uint64_t together = KeysRead(SharingCost::OfReading(64), sequences);
  const uint64_t apart = KeysRead(SharingCost::Never(), sequences);
  // The prefix is computed before the others come, in one chunk of its 320 tokens and 4 more; their own
  // tokens follow in one step, and kOutput - 1 decodes. The first is ahead of the others by up to a step.
  const uint64_t least = uint64_t{kOutput - 1} * 14 * 20 * kBlock;
  EXPECT_GE(apart, together + least) << apart << " keys apart, " << together << " together";
  EXPECT_LT(together, apart / 4);
}

TEST_F(PrefixCacheTest, OneReaderAndShortPrefixesAreReadAsIfNothingWereShared) {
  const std::vector<int32_t> head = Tokens(8 * kBlock);
  const SharingCost eager = SharingCost::OfReading(1), longer = SharingCost::OfReading(16 * kBlock);
  const std::vector<TestSequence> alone = {After(head, 20)}, both = {After(head, 20), After(head, 9)};
  EXPECT_EQ(KeysRead(eager, alone), KeysRead(SharingCost::Never(), alone));
  EXPECT_EQ(KeysRead(longer, both), KeysRead(SharingCost::Never(), both));
  EXPECT_LT(KeysRead(eager, both), KeysRead(SharingCost::Never(), both));
}

TEST_F(PrefixCacheTest, WhatDoesNotPayForAllIsReadWithTheNextNodeByItsReaders) {
  // One short block that all share, then long nodes of two groups.
  std::vector<TestSequence> sequences;
  const std::vector<int32_t> top = Tokens(kBlock);
  for (int group = 0; group < 2; ++group) {
    const std::vector<int32_t> middle = After(top, 20 * kBlock).prompt;
    for (int i = 0; i < 6; ++i) sequences.push_back(After(middle, 4));
  }
  WorkerSettings settings = TestSettings(*model_, {200}, kBlock);
  settings.sharing = SharingCost::OfReading(16 * kBlock);
  const Totals totals = ExpectEqualTokens(settings, sequences);
  EXPECT_GE(totals.hit, 10u * 21 * kBlock);
  EXPECT_LT(KeysRead(*settings.sharing, sequences), KeysRead(SharingCost::Never(), sequences) / 3);
}

TEST_F(PrefixCacheTest, EightSystemPromptsAtOnceInChunksOfAFewTokens) {
  std::vector<TestSequence> sequences;
  std::vector<std::vector<int32_t>> systems;
  for (int i = 0; i < 8; ++i) systems.push_back(Tokens(5 * kBlock + 3));
  for (int i = 0; i < 40; ++i) sequences.push_back(After(systems[i % 8], 7 + i % 5));
  WorkerSettings settings = TestSettings(*model_, {400}, kBlock);
  settings.engine.max_batch_tokens = 24;
  const Totals totals = ExpectEqualTokens(settings, sequences);
  EXPECT_GE(totals.hit, 32u * 5 * kBlock);
}

TEST_F(PrefixCacheTest, PromptsThatPartInsideABlockShareItsBeginningByCopy) {
  const std::vector<int32_t> head = Tokens(2 * kBlock + 9);
  const Totals totals =
      ExpectEqualTokens(TestSettings(*model_, {100}, kBlock), {After(head, 20), After(head, 30)});
  EXPECT_EQ(totals.hit, 2 * kBlock + 9);
}

TEST_F(PrefixCacheTest, TheSamePromptAgainIsComputedButForItsLastToken) {
  const TestSequence sequence = After({}, 4 * kBlock);
  const Totals totals =
      ExpectEqualTokens(TestSettings(*model_, {100}, kBlock), {sequence, sequence, sequence});
  EXPECT_EQ(totals.hit, 2 * (4 * kBlock - 1));
}

TEST_F(PrefixCacheTest, AnotherSaltSharesNothing) {
  TestSequence mine = After({}, 6 * kBlock), yours = mine;
  mine.cache_salt = std::string(1, 'a'), yours.cache_salt = std::string(1, 'b');
  const Totals totals = ExpectEqualTokens(TestSettings(*model_, {100}, kBlock), {mine, yours, mine});
  EXPECT_EQ(totals.hit, 6 * kBlock - 1) << "only the third finds anything";
}

TEST_F(PrefixCacheTest, CachedBlocksGiveWayBeforeAnyRequestDoes) {
  // 32 blocks; each request needs 9 or 10 and leaves them behind.
  std::vector<TestSequence> sequences;
  for (int i = 0; i < 12; ++i) sequences.push_back(After({}, 8 * kBlock + i));
  WorkerSettings settings = TestSettings(*model_, {32}, kBlock);
  const Totals totals = ExpectEqualTokens(settings, sequences);
  EXPECT_GT(totals.evicted, 0u);
  EXPECT_EQ(totals.preemptions, 0u);
}

TEST_F(PrefixCacheTest, SurvivesPreemption) {
  const std::vector<int32_t> head = Tokens(3 * kBlock);
  std::vector<TestSequence> sequences;
  for (int i = 0; i < 10; ++i) {
    sequences.push_back(After(head, 2 * kBlock + 3 * i));
  }
  WorkerSettings settings = TestSettings(*model_, {14}, kBlock);
  settings.engine.headroom_tokens = 1;  // admitted with no room to grow
  const Totals totals = ExpectEqualTokens(settings, sequences);
  EXPECT_GT(totals.preemptions, 0u);
  EXPECT_GT(totals.hit, 0u);
}

TEST_F(PrefixCacheTest, BesideLending) {
  for (const std::vector<uint32_t>& budget :
       std::vector<std::vector<uint32_t>>{{40, 40}, {13, 26, 52, 13}, {60, 9, 30, 20}}) {
    std::vector<TestSequence> sequences;
    const std::vector<int32_t> head = Tokens(4 * kBlock);
    for (int i = 0; i < 24; ++i) sequences.push_back(After(head, 3 + 2 * i));
    sequences.push_back(After(head, 50 * kBlock));  // larger than most of the ranks
    sequences.push_back(After(head, 30 * kBlock));
    const Totals totals = ExpectEqualTokens(TestSettings(*model_, budget, kBlock), sequences);
    EXPECT_GT(totals.hit, 0u) << testing::PrintToString(budget);
    EXPECT_GT(totals.loans, 0u) << testing::PrintToString(budget);
  }
}

}  // namespace
}  // namespace lombard
