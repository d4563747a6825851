// Goal: what the planner moves away from a request are blocks that nobody else reads; those that others read
// stay, and are read with them in one product. Method: two engines in virtual time.
#include <gmock/gmock.h>

#include "tests/runtime/engine/two_engines.h"

namespace lombard {
namespace {

constexpr uint32_t kHeadBlocks = kHead / kBlock;

class PrivateMovesTest : public TwoEngines {
 protected:
  PrivateMovesTest() {
    first_ = Submit(kHolder);
    second_ = Submit(kHolder);
    while (Table(first_).full_blocks() < kHeadBlocks + 3) Step(kHolder);
  }
  void Advise(RequestId request, uint32_t blocks) { AdviseMove(kHolder, request, blocks, kReader); }
  const BlockTable& Table(RequestId request) { return TableOf(kHolder, request); }
  // Of the request at home, as the planner is told.
  uint32_t Movable(RequestId request) {
    Step(kHolder);  // tells its manager
    Pass(absl::Seconds(1));
    Step(kHolder);  // which tells gManager
    for (const messages::Placement& p : At(kHolder).heartbeat.placements()) {
      if (p.request().number() == request.number && p.host() == kHolder) return p.movable();
    }
    return 0;
  }
  BlockPlace::State StateOf(RequestId request, uint32_t block) { return Table(request).place(block).state; }

  RequestId first_, second_;
};

using State = BlockPlace::State;

TEST_F(PrivateMovesTest, WhatOthersReadStaysAndIsReadWithThem) {
  const uint32_t own = Table(first_).full_blocks() - kHeadBlocks;
  const uint32_t movable = Movable(first_);
  EXPECT_GE(movable, own);
  EXPECT_LE(movable, own + 1);      // two steps later
  Advise(first_, kHeadBlocks - 1);  // more than it has of its own, less than all that they share
  for (int i = 0; i < 4; ++i) Step(kHolder), Step(kReader);
  EXPECT_GE(Table(first_).lent_blocks(), own);
  for (uint32_t block = 0; block < kHeadBlocks; ++block) EXPECT_EQ(StateOf(first_, block), State::kFull);
  EXPECT_EQ(StateOf(first_, kHeadBlocks), State::kLent);
  ASSERT_EQ(At(kHolder).plan.shared.size(), 1u);
  EXPECT_EQ(At(kHolder).plan.shared[0].span.token_count, static_cast<int>(kHead));
  EXPECT_THAT(At(kHolder).plan.shared[0].readers, testing::ElementsAre(0, 1));
  for (int i = 0; i < 30; ++i) Step(kHolder), Step(kReader);
  EXPECT_TRUE(At(kHolder).engine.idle());
  EXPECT_EQ(At(kHolder).engine.preemptions(), 0u);
}

TEST_F(PrivateMovesTest, WhatNobodyElseReadsAnyMoreMayGo) {
  At(kHolder).engine.Cancel(second_, now_);
  // What the other one has left behind the head goes when memory is wanted.
  KvPool& pool = At(kHolder).pool;
  pool.ReleaseAll(*pool.Allocate(pool.free_count()));
  const uint32_t before = Table(first_).full_blocks();
  EXPECT_GE(Movable(first_), before);
  Advise(first_, kHeadBlocks);
  for (int i = 0; i < 4; ++i) Step(kHolder), Step(kReader);
  EXPECT_EQ(StateOf(first_, 0), State::kLent);
}

TEST_F(PrivateMovesTest, WhoeverComesWhileBlocksLeaveReadsNoneOfThem) {
  Advise(first_, kHeadBlocks - 1);
  At(kHolder).mover.stored = false;
  for (int i = 0; i < 3; ++i) Step(kHolder), Step(kReader);
  ASSERT_GT(Table(first_).leaving_blocks(), 0u);
  const RequestId third = Submit(kHolder, {}, kHead);
  for (int i = 0; i < 2; ++i) Step(kHolder);
  EXPECT_EQ(At(kHolder).plan.shared.at(0).readers.size(), 3u) << "of the head";
  At(kHolder).mover.stored = true;
  Step(kHolder);
  EXPECT_EQ(Table(first_).leaving_blocks(), 0u);
  EXPECT_GT(Table(first_).lent_blocks(), 0u);
  EXPECT_EQ(StateOf(third, kHeadBlocks - 1), State::kFull);
}

}  // namespace
}  // namespace lombard
