// Goal: a prefix that is wanted at two instances at once is computed at one of them; the other one waits for
// it with nothing, not for ever, and never for one that waits itself. Method: two engines in
// virtual time.
#include "tests/runtime/engine/two_engines.h"

namespace lombard {
namespace {

using PrefixElsewhereTest = TwoEngines;

TEST_F(PrefixElsewhereTest, WaitsWithNothingUntilItIsComputedThere) {
  Submit(kHolder);
  Submit(kReader, kHolder);
  Submit(kReader, kHolder);
  for (int i = 0; Granted() < 2 && i < 100; ++i) {
    for (int again = 0; again < 3; ++again) Step(kReader);
    if (Granted() == 0) {
      EXPECT_EQ(At(kReader).pool.used_count(), 0u) << "whoever waits holds nothing";
      EXPECT_EQ(At(kReader).rows, 0u);
      EXPECT_LE(At(kReader).engine.NextRetry(), now_ + absl::Milliseconds(640)) << "somebody must wake it";
    }
    Step(kHolder);
    Pass(absl::Milliseconds(100));
  }
  EXPECT_EQ(Granted(), 2u);
  EXPECT_EQ(At(kReader).engine.prefixes_awaited(), 2u);
  EXPECT_EQ(At(kReader).rmanager.counters().borrow_refused, 0u);
  for (int i = 0; i < 30; ++i) Step(kReader);
  EXPECT_EQ(At(kReader).rows, 2u * (3 + 19)) << "the prefix was computed once, at the holder";
}

TEST_F(PrefixElsewhereTest, IsAwaitedFromTheMomentThatItsRequestCame) {
  Submit(kHolder);  // and no step there yet
  Submit(kReader, kHolder);
  Step(kReader), Step(kReader);
  EXPECT_EQ(At(kReader).rows, 0u);
  EXPECT_EQ(At(kReader).pool.used_count(), 0u);
}

TEST_F(PrefixElsewhereTest, IsComputedHereWhenNothingIsAddedThere) {
  Submit(kHolder);
  Submit(kReader, kHolder);
  Step(kHolder);
  for (int i = 0; i < 49; ++i) Step(kReader), Pass(absl::Milliseconds(100));
  EXPECT_EQ(At(kReader).rows, 0u) << "4.9 s of 5";
  Step(kHolder);  // another block: the time begins anew
  for (int i = 0; i < 49; ++i) Step(kReader), Pass(absl::Milliseconds(100));
  EXPECT_EQ(At(kReader).rows, 0u);
  for (int i = 0; i < 8; ++i) Step(kReader), Pass(absl::Milliseconds(100));
  EXPECT_GT(At(kReader).rows, 0u);
  EXPECT_EQ(Granted(), 0u);
}

TEST_F(PrefixElsewhereTest, IsComputedHereWhenItsRequestThereIsGone) {
  const RequestId other = Submit(kHolder);
  Submit(kReader, kHolder);
  Step(kHolder), Step(kReader);
  EXPECT_EQ(At(kReader).rows, 0u);
  At(kHolder).engine.Cancel(other, now_);
  for (int i = 0; i < 3; ++i) Pass(absl::Milliseconds(100)), Step(kReader);
  EXPECT_GT(At(kReader).rows, 0u);
}

// Each names the other: one of them would wait for ever for what the other one waits for.
TEST_F(PrefixElsewhereTest, NobodyWaitsForOneThatWaits) {
  Submit(kHolder, kReader);
  Submit(kReader, kHolder);
  for (int i = 0; i < 3; ++i) {
    for (const uint32_t rank : {kHolder, kHolder, kReader, kReader}) Step(rank);  // asks, hears the answer
    Pass(absl::Milliseconds(100));
  }
  EXPECT_GT(At(kHolder).rows + At(kReader).rows, 0u);
}

TEST_F(PrefixElsewhereTest, ALongerBeginningIsNotAwaited) {
  Submit(kHolder, {}, kHead - kBlock);  // computes less than what is asked for
  Submit(kReader, kHolder);
  for (int i = 0; i < 3; ++i) Step(kReader);
  EXPECT_GT(At(kReader).rows, 0u);
}

class CopyTest : public TwoEngines {
 protected:
  CopyTest() : TwoEngines(100, /*copy=*/true) {
    const RequestId first = Submit(kHolder);
    Submit(kHolder);
    while (At(kHolder).engine.running_count() < 2 || At(kHolder).plan.shared.empty()) Step(kHolder);
    At(kHolder).engine.Cancel(first, now_);
    reader_ = Submit(kReader, kHolder);
    while (At(kReader).rows < 4) Step(kReader);
  }
  // Of the rank, as gManager is told: all that it has been told before, and what has changed.
  std::map<uint64_t, messages::HotPrefix> Told(uint32_t rank) {
    Pass(absl::Seconds(1));
    Step(rank);
    for (const messages::HotPrefix& prefix : At(rank).heartbeat.prefixes()) {
      told_[rank][prefix.name()] = prefix;
      if (prefix.blocks() == 0) told_[rank].erase(prefix.name());
    }
    return told_[rank];
  }
  void Advise(uint64_t name) {
    messages::ControlMessage advice;
    advice.set_incarnation(1);
    advice.mutable_copy_prefix()->set_name(name);
    At(kReader).rmanager.Handle(0, advice, now_);
  }

  RequestId reader_;
  std::map<uint64_t, messages::HotPrefix> told_[2];
};

TEST_F(CopyTest, FewRowsDoNotPayForACopy) {
  for (int i = 0; i < 30; ++i) Step(kReader);
  EXPECT_TRUE(At(kReader).engine.idle());
  EXPECT_EQ(At(kReader).rows, 3 + 19u);  // of the 40 that are worth one
  EXPECT_EQ(At(kReader).engine.prefixes_copied(), 0u);
}

TEST_F(CopyTest, WhatTheManagerAdvisesIsCopiedAtOnceAndWhole) {
  const auto told = Told(kReader);
  ASSERT_EQ(told.size(), 1u);
  const auto& [name, prefix] = *told.begin();
  EXPECT_EQ(prefix.blocks(), kHead / kBlock);
  EXPECT_EQ(prefix.readers(), 1u);
  EXPECT_GE(prefix.rows(), 3u);
  EXPECT_FALSE(prefix.here());
  const auto here = Told(kHolder);  // its request and the loan read the same
  ASSERT_TRUE(here.contains(name));
  EXPECT_TRUE(here.at(name).here());
  EXPECT_GT(here.at(name).rows(), 0u);

  Advise(name + 1);  // nobody reads that
  for (int i = 0; i < 3; ++i) Step(kReader);
  EXPECT_EQ(At(kReader).engine.copies_advised(), 0u);
  Advise(name);
  while (At(kReader).engine.prefixes_copied() == 0 && !At(kReader).engine.idle()) Step(kReader);
  EXPECT_EQ(At(kReader).engine.copies_advised(), 1u);
  EXPECT_EQ(At(kReader).engine.prefixes_copied(), 1u);
  EXPECT_FALSE(At(kReader).engine.idle());
  Submit(kReader);
  Step(kReader), Step(kReader);
  const auto after = Told(kReader);
  ASSERT_TRUE(after.contains(name));
  EXPECT_TRUE(after.at(name).here());
  EXPECT_EQ(after.at(name).readers(), 2u);
}

TEST_F(CopyTest, IsSharedEvenIfItsReaderHasLentWhatFollows) {
  const BlockTable& table = TableOf(kReader, reader_);
  while (table.full_blocks() < 2) Step(kReader);
  AdviseMove(kReader, reader_, 4, kHolder);
  for (int i = 0; i < 3; ++i) Step(kReader);
  ASSERT_GT(table.lent_blocks(), kHead / kBlock);
  Advise(Told(kReader).begin()->first);
  while (At(kReader).engine.prefixes_copied() == 0 && !At(kReader).engine.idle()) Step(kReader);
  ASSERT_FALSE(At(kReader).engine.idle());
  EXPECT_EQ(table.place(0).state, BlockPlace::State::kFull);
  EXPECT_EQ(table.place(kHead / kBlock).state, BlockPlace::State::kLent);
  const uint64_t before = At(kReader).engine.prefix_stats().hit_tokens;
  Submit(kReader);
  Step(kReader);
  EXPECT_EQ(At(kReader).engine.prefix_stats().hit_tokens, before + kHead);
}

class ShortOfMemoryTest : public TwoEngines {
 protected:
  ShortOfMemoryTest() : TwoEngines(kHead / kBlock + 8) {}
};

TEST_F(ShortOfMemoryTest, AHolderThatNeedsItsMemoryGetsIt) {
  const RequestId first = Submit(kHolder);
  for (int i = 0; i < 10; ++i) Step(kHolder);
  At(kHolder).engine.Cancel(first, now_);  // the prefix stays
  Submit(kReader, kHolder);
  while (At(kReader).rows == 0) Step(kReader);
  ASSERT_EQ(Granted(), 1u);
  // All but the last eight blocks of the pool are read from elsewhere.
  SequenceRequest request{.id = {next_, next_}, .prompt = std::vector<int32_t>(12 * kBlock, 7), .output = {}};
  request.sampling.max_tokens = 4, request.sampling.ignore_eos = true;
  At(kHolder).engine.Submit(request, now_);
  const uint64_t rows_before = At(kHolder).rows;
  for (int i = 0; i < 60 && !At(kHolder).engine.idle(); ++i) {
    Step(kHolder);
    if (At(kHolder).rows == rows_before) Step(kReader);
    Pass(absl::Milliseconds(20));
  }
  EXPECT_EQ(At(kHolder).rmanager.counters().recalled, 1u);
  EXPECT_TRUE(At(kHolder).engine.idle());
  while (!At(kReader).engine.idle()) Step(kReader);
  EXPECT_EQ(At(kReader).rows, 3u + 19) << "what it read has come home, and is not computed again";
  EXPECT_EQ(At(kReader).engine.preemptions(), 0u);
}

}  // namespace
}  // namespace lombard
