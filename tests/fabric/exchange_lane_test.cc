#include "fabric/exchange_lane.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lombard {
namespace {

using State = ExchangeLane::State;
using testing::ElementsAre;

const absl::Time kStart = absl::UnixEpoch(), kLater = kStart + absl::Seconds(1);

TEST(ExchangeLaneTest, IsTakenByOneExchangeAtATime) {
  ExchangeLane lane(1);
  const auto mine = lane.Ask({0, 2}, kLater);
  ASSERT_TRUE(mine.has_value());
  EXPECT_EQ(mine->starter, 1);
  EXPECT_EQ(lane.Ask({0}, kLater), std::nullopt);
  EXPECT_FALSE(lane.OnAsked({0, 7}));
  lane.OnAnswer(*mine, 2, true);
  EXPECT_EQ(lane.state(), State::kAsking);
  lane.OnAnswer(*mine, 0, false);
  EXPECT_EQ(lane.state(), State::kRunning);
  EXPECT_THAT(lane.participants(), ElementsAre(2));
  EXPECT_FALSE(lane.OnAsked({0, 8}));
  lane.Done();

  EXPECT_TRUE(lane.OnAsked({0, 9}));
  EXPECT_EQ(lane.exchange(), (ExchangeId{0, 9}));
  EXPECT_FALSE(lane.OnAsked({2, 1}));
  EXPECT_EQ(lane.Ask({0}, kLater), std::nullopt);
  lane.Done();
  const auto next = lane.Ask({0}, kLater);
  ASSERT_TRUE(next.has_value());
  EXPECT_NE(*next, *mine);
}

TEST(ExchangeLaneTest, IsFreeWhenAllSayNo) {
  ExchangeLane lane(0);
  const auto id = lane.Ask({1, 2}, kLater);
  lane.OnAnswer(*id, 1, false);
  lane.OnAnswer(*id, 2, false);
  EXPECT_EQ(lane.state(), State::kFree);
}

TEST(ExchangeLaneTest, TakesAnswersOfTheRightExchangeFromThoseAskedOnce) {
  ExchangeLane lane(0);
  const auto before = lane.Ask({1}, kLater);
  lane.OnAnswer(*before, 1, false);
  const auto id = lane.Ask({1, 2}, kLater);
  lane.OnAnswer(*before, 1, true);
  lane.OnAnswer(*id, 3, true);
  lane.OnAnswer(*id, 2, false);
  lane.OnAnswer(*id, 2, true);
  EXPECT_EQ(lane.state(), State::kAsking);
  lane.OnAnswer(*id, 1, false);
  EXPECT_EQ(lane.state(), State::kFree);
}

TEST(ExchangeLaneTest, NamesWhoDidNotAnswerInTimeAndGoesOnWithoutThem) {
  ExchangeLane lane(0);
  const auto id = lane.Ask({1, 2}, kLater);
  lane.OnAnswer(*id, 1, true);
  EXPECT_THAT(lane.OnTime(kStart), ElementsAre());
  EXPECT_THAT(lane.OnTime(kLater), ElementsAre(2));
  EXPECT_EQ(lane.state(), State::kRunning);
  lane.OnAnswer(*id, 2, true);
  EXPECT_THAT(lane.participants(), ElementsAre(1));
  EXPECT_THAT(lane.OnTime(kLater), ElementsAre());
}

TEST(ExchangeLaneTest, ALostPeerIsANoEvenAfterItsYes) {
  ExchangeLane lane(0);
  const auto id = lane.Ask({1, 2}, kLater);
  lane.OnAnswer(*id, 1, true);
  lane.OnPeerDown(1);
  EXPECT_EQ(lane.state(), State::kAsking);
  lane.OnPeerDown(2);
  EXPECT_EQ(lane.state(), State::kFree);
}

}  // namespace
}  // namespace lombard
