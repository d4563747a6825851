// Goal: a prefix that several requests read moves whole, before what one of them has alone, and all of them
// read it at the creditor from the same step on; the loan ends with the last one, or comes home once for all.
// Method: two engines in virtual time.
#include <gmock/gmock.h>

#include <map>
#include <set>

#include "tests/runtime/engine/two_engines.h"

namespace lombard {
namespace {

constexpr uint32_t kHeadBlocks = kHead / kBlock;
using State = BlockPlace::State;

class SharedMovesTest : public TwoEngines {
 protected:
  SharedMovesTest() {
    first_ = Submit(kHolder);
    second_ = Submit(kHolder);
    while (Table(second_).full_blocks() < kHeadBlocks + 1) Step(kHolder);
  }
  const BlockTable& Table(RequestId request) { return TableOf(kHolder, request); }
  void Steps(int count) {
    for (int i = 0; i < count; ++i) Step(kHolder), Step(kReader);
  }
  void MoveHead() {
    AdviseMove(kHolder, first_, kHeadBlocks, kReader);
    Steps(4);
    for (const RequestId& reader : {first_, second_}) ASSERT_EQ(HeadState(reader), State::kLent);
  }
  // The one state of all blocks of the head.
  State HeadState(RequestId request) {
    for (uint32_t block = 1; block < kHeadBlocks; ++block)
      EXPECT_EQ(Table(request).place(block).state, Table(request).place(0).state);
    return Table(request).place(0).state;
  }
  // The cached copy goes.
  void Evict() {
    KvPool& pool = At(kHolder).pool;
    pool.ReleaseAll(*pool.Allocate(pool.free_count()));
  }
  // That the last step of the holder names, of the head.
  std::multiset<LoanId> LoansOfHead() {
    std::multiset<LoanId> loans;
    for (const SequenceRows& rows : At(kHolder).plan.sequences) {
      const auto* lent = std::get_if<LentSpan>(&rows.spans.front());
      if (lent == nullptr) continue;
      EXPECT_EQ(lent->first_slot, 0u);
      EXPECT_EQ(lent->token_count, static_cast<int>(kHead));
      loans.insert(lent->loan);
    }
    return loans;
  }
  // The creditor leaves, so all that is lent there comes back.
  void CallBack() {
    At(kReader).rmanager.Drain(now_ + absl::Minutes(1), now_);
    Steps(8);
    EXPECT_EQ(HeadState(first_), State::kFull);
    EXPECT_EQ(HeadState(second_), State::kFull);
    EXPECT_EQ(Table(first_).LocalBlock(0), Table(second_).LocalBlock(0));
    EXPECT_EQ(At(kHolder).plan.shared.at(0).readers.size(), 2u);
    EXPECT_EQ(At(kReader).rmanager.counters().lent, 0u);
    EXPECT_EQ(Repaid(), 1u);
    EXPECT_EQ(At(kHolder).engine.preemptions(), 0u);
  }
  uint64_t Repaid() { return At(kReader).rmanager.counters().repaid; }
  void ExpectAllEnd() {
    Steps(60);
    EXPECT_TRUE(At(kHolder).engine.idle());
    EXPECT_EQ(At(kHolder).rmanager.counters().borrowed, 0u);
    EXPECT_EQ(At(kReader).rmanager.counters().lent, 0u);
    EXPECT_EQ(At(kHolder).pool.used_count(), 0u);
  }

  RequestId first_, second_;
};

TEST_F(SharedMovesTest, ThePlannerIsToldOfTheOldestReader) {
  std::map<uint64_t, messages::Placement> told;  // what has changed, each time
  for (int i = 0; i < 4; ++i) {
    Pass(absl::Seconds(1));
    Step(kHolder);
    for (const messages::Placement& p : At(kHolder).heartbeat.placements()) told[p.request().number()] = p;
  }
  ASSERT_EQ(told.size(), 2u);
  for (const auto& [number, p] : told) {
    const bool oldest = number == first_.number;
    EXPECT_EQ(p.shared(), oldest ? kHeadBlocks : 0u);
    EXPECT_EQ(p.readers(), oldest ? 2u : 0u);
    EXPECT_LE(p.movable() + p.shared(), p.blocks());
  }
}

TEST_F(SharedMovesTest, AllReadersFlipInTheStepInWhichAllOfItIsThere) {
  AdviseMove(kHolder, first_, kHeadBlocks + 1, kReader);
  At(kHolder).mover.stored = false;
  Steps(3);
  EXPECT_EQ(At(kHolder).rmanager.counters().borrowed, kHeadBlocks) << "the prefix, and no block more";
  EXPECT_EQ(At(kHolder).plan.shared.at(0).readers.size(), 2u) << "read here until then";
  const uint32_t free = At(kHolder).pool.free_count();
  At(kHolder).mover.stored = true;
  Step(kHolder);
  const std::multiset<LoanId> loans = LoansOfHead();
  ASSERT_EQ(loans.size(), 2u);
  EXPECT_EQ(loans.count(*loans.begin()), 2u) << "one loan for both";
  EXPECT_TRUE(At(kHolder).plan.shared.empty());
  EXPECT_GE(At(kHolder).pool.free_count() + 2, free + kHeadBlocks) << "each may have taken one since";
  EXPECT_EQ(At(kHolder).engine.prefixes_lent(), 1u);
  EXPECT_EQ(At(kReader).rmanager.counters().lent, kHeadBlocks);
  ExpectAllEnd();
  EXPECT_EQ(At(kHolder).engine.preemptions(), 0u);
  EXPECT_EQ(Repaid(), 1u);
}

TEST_F(SharedMovesTest, TheLastReaderRepaysIt) {
  MoveHead();
  At(kHolder).engine.Cancel(first_, now_);  // in whose name it was borrowed
  Steps(2);
  EXPECT_EQ(Repaid(), 0u);
  EXPECT_EQ(HeadState(second_), State::kLent);
  At(kHolder).engine.Cancel(second_, now_);
  Steps(2);
  EXPECT_EQ(Repaid(), 1u);
  ExpectAllEnd();
}

TEST_F(SharedMovesTest, WhoeverComesReadsItThere) {
  MoveHead();
  Evict();
  const uint64_t before = At(kHolder).rows;
  const RequestId third = Submit(kHolder);
  Steps(2);
  EXPECT_EQ(HeadState(third), State::kLent);
  const std::multiset<LoanId> loans = LoansOfHead();
  EXPECT_EQ(loans.count(*loans.begin()), 3u);
  EXPECT_LE(At(kHolder).rows, before + 3 + 2 * 3) << "its head was not computed again";
  At(kHolder).engine.Cancel(first_, now_), At(kHolder).engine.Cancel(second_, now_);
  Steps(2);
  EXPECT_EQ(Repaid(), 0u);
  ExpectAllEnd();
}

TEST_F(SharedMovesTest, CalledBackItIsFetchedOnceForAll) {
  MoveHead();
  Evict();
  CallBack();
  EXPECT_EQ(At(kHolder).engine.recovery_stats().blocks_returned, kHeadBlocks);
  ExpectAllEnd();
}

TEST_F(SharedMovesTest, CalledBackItIsFoundInTheCache) {
  MoveHead();
  const uint32_t used = At(kHolder).pool.used_count();
  CallBack();
  EXPECT_LE(At(kHolder).pool.used_count(), used + kHeadBlocks + 4) << "one copy, and what two decodes took";
  ExpectAllEnd();
}

TEST_F(SharedMovesTest, LostItIsComputedAgain) {
  MoveHead();
  At(kHolder).rmanager.PeerUnreachable(kReader, now_);
  ExpectAllEnd();
  EXPECT_GE(At(kHolder).engine.recovery_stats().recomputed_tokens, kHead);
}

TEST_F(SharedMovesTest, EndsWithTheRequestInWhoseNameItIsCopied) {
  AdviseMove(kHolder, first_, kHeadBlocks, kReader);
  At(kHolder).mover.stored = false;
  Steps(3);
  At(kHolder).engine.Cancel(first_, now_);
  At(kHolder).mover.stored = true;
  Steps(2);
  EXPECT_EQ(HeadState(second_), State::kFull);
  EXPECT_EQ(Repaid(), 1u);
  ExpectAllEnd();
  EXPECT_EQ(At(kHolder).engine.prefixes_lent(), 0u);
}

TEST_F(SharedMovesTest, StaysWhereSomeoneReadsAPartOfIt) {
  AdviseMove(kHolder, first_, kHeadBlocks, kReader);
  At(kHolder).mover.stored = false;
  Steps(3);
  Submit(kHolder, {}, kHead - 2 * kBlock);  // comes while it is copied
  Step(kHolder);
  At(kHolder).mover.stored = true;
  Steps(2);
  EXPECT_EQ(HeadState(first_), State::kFull);
  EXPECT_EQ(HeadState(second_), State::kFull);
  EXPECT_EQ(At(kHolder).engine.prefixes_lent(), 0u);
  EXPECT_EQ(At(kReader).rmanager.counters().lent, 0u);
  AdviseMove(kHolder, first_, kHeadBlocks, kReader);
  Steps(4);
  EXPECT_EQ(HeadState(first_), State::kFull) << "nor is it begun again";
  EXPECT_EQ(Table(first_).place(kHeadBlocks).state, State::kLent) << "what it has alone goes instead";
}

}  // namespace
}  // namespace lombard
