#include "rmanager/held_over.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lombard {
namespace {

constexpr RequestId kRequest{100, 1}, kOther{100, 2};

class HeldOverTest : public testing::Test {
 protected:
  // Blocks of the sequence from `first` on, named 10 * block + `variant`.
  void Keep(RequestId request, uint32_t first, uint32_t count, absl::Duration until = absl::Seconds(10),
            uint64_t variant = 0) {
    std::vector<HeldOver::Block> blocks;
    const std::vector<BlockId> ids = *pool_.Allocate(count);
    for (BlockId id : ids) {
      blocks.push_back({{.block = first, .name = 10 * uint64_t{first} + variant}, id});
      ++first;
    }
    held_.Keep(request, std::move(blocks), absl::UnixEpoch() + until);
  }
  std::vector<uint32_t> Adopt(RequestId request, const std::vector<uint64_t>& names, size_t limit = 100) {
    std::vector<uint32_t> places;
    for (const HeldOver::Block& block : held_.Adopt(request, names, limit)) {
      places.push_back(block.content.block);
      adopted_.push_back(block.id);
    }
    EXPECT_TRUE(pool_.CheckInvariants().ok());
    return places;
  }

  KvPool pool_{16};
  HeldOver held_{&pool_, PlantedBug::kNone};
  std::vector<BlockId> adopted_;
};

TEST_F(HeldOverTest, OnlyBlocksOfTheRequestWithTheRightNameInTheRightPlaceAreAdoptedAndOnce) {
  Keep(kRequest, 0, 2);
  Keep(kRequest, 3, 3);
  Keep(kRequest, 4, 1, absl::Seconds(10), /*variant=*/1);  // the same place, other tokens
  Keep(kOther, 2, 1);
  EXPECT_EQ(pool_.free_count(), 16);
  // Block 1 holds other tokens, block 5 is beyond what is known.
  EXPECT_THAT(Adopt(kRequest, {0, 11, 20, 30, 41}), testing::ElementsAre(0, 3, 4));
  EXPECT_EQ(pool_.free_count(), 13);
  EXPECT_EQ(held_.unread_blocks(), 1) << "the request's other blocks are free";
  EXPECT_THAT(Adopt(kRequest, {0, 10, 20, 30, 40}), testing::IsEmpty());
  for (BlockId id : adopted_) EXPECT_EQ(pool_.references(id), 1);
}

TEST_F(HeldOverTest, TheSameBlockHeldTwiceIsAdoptedOnce) {
  Keep(kRequest, 0, 2);
  Keep(kRequest, 1, 2);
  EXPECT_THAT(Adopt(kRequest, {0, 10, 20}), testing::ElementsAre(0, 1, 2));
  EXPECT_EQ(pool_.free_count(), 13);
}

TEST_F(HeldOverTest, NoMoreIsAdoptedThanMayBeLent) {
  Keep(kRequest, 0, 5);
  EXPECT_THAT(Adopt(kRequest, {0, 10, 20, 30, 40}, /*limit=*/2), testing::ElementsAre(0, 1));
  EXPECT_EQ(pool_.free_count(), 14);
}

TEST_F(HeldOverTest, ItEndsInTimeAndWhenMemoryIsWanted) {
  Keep(kRequest, 0, 4, absl::Seconds(1));
  Keep(kOther, 0, 4, absl::Seconds(2));
  EXPECT_EQ(held_.NextDeadline(), absl::UnixEpoch() + absl::Seconds(1));
  ASSERT_TRUE(pool_.Allocate(10).ok());
  EXPECT_EQ(pool_.free_count(), 6);
  EXPECT_EQ(held_.unread_blocks(), 6) << "the oldest has lost its last two";
  held_.Tick(absl::UnixEpoch() + absl::Seconds(1));
  EXPECT_EQ(held_.unread_blocks(), 4);
  EXPECT_THAT(Adopt(kOther, {0, 10, 20, 30}), testing::SizeIs(4));
}

}  // namespace
}  // namespace lombard
