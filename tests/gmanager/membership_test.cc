// The table of fabric/messages/protocol.h, MEMBERSHIP, row by row.
#include "gmanager/membership.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lombard {
namespace {

using State = Membership::State;
using Verdict = Membership::Verdict;
using testing::HasSubstr;

constexpr InstanceId kZero{0}, kOne{1}, kTwo{2};
absl::Time At(double seconds) { return absl::UnixEpoch() + absl::Seconds(seconds); }

class MembershipTest : public testing::Test {
 protected:
  // Three places, two expected.
  Membership members_{{.instances = 3,
                       .expected = 2,
                       .own = kZero,
                       .dead_after = absl::Seconds(1),
                       .join_wait = absl::Seconds(5),
                       .kv_blocks = {}}};
  State StateOf(InstanceId i) const { return members_.members()[Value(i)].state; }
  Verdict Ping(InstanceId i, uint64_t incarnation, uint64_t process, double when = 0) {
    return members_.Heard(i, Incarnation{incarnation}, process, At(when));
  }
};

TEST_F(MembershipTest, AVacantPlaceIsNobodysUntilItIsGranted) {
  EXPECT_EQ(StateOf(kOne), State::kExpected);
  EXPECT_EQ(StateOf(kTwo), State::kVacant);
  EXPECT_EQ(Ping(kTwo, 1, 70), Verdict::kTaken);
  EXPECT_EQ(StateOf(kTwo), State::kVacant);
  const auto grant = members_.Join({}, 77, 10, At(0));
  ASSERT_TRUE(grant.ok()) << grant.status();
  EXPECT_EQ(grant->instance, kTwo);
  EXPECT_EQ(Value(grant->incarnation), 1u);
  EXPECT_EQ(StateOf(kTwo), State::kJoining);
  EXPECT_FALSE(members_.IsAlive(kTwo, grant->incarnation));
  EXPECT_EQ(Ping(kTwo, 1, 70), Verdict::kTaken) << "another process";
  const uint64_t number = members_.number();
  EXPECT_EQ(Ping(kTwo, 1, 77), Verdict::kMember);
  EXPECT_TRUE(members_.IsAlive(kTwo, grant->incarnation));
  EXPECT_EQ(members_.number(), number + 1);
  EXPECT_EQ(members_.members()[2].kv_blocks, 10u);
}

TEST_F(MembershipTest, WhoIsAwaitedAndBreaksBeforeItsFirstPingIsLost) {
  members_.Lose(kTwo);
  EXPECT_EQ(StateOf(kTwo), State::kVacant) << "nobody awaited it";
  const uint64_t number = members_.number();
  members_.Lose(kOne);
  EXPECT_EQ(StateOf(kOne), State::kLost);
  EXPECT_EQ(members_.number(), number + 1);
}

TEST_F(MembershipTest, WhoWasLetInAndDoesNotComeLosesThePlaceAndItsNumberIsNotUsedAgain) {
  ASSERT_TRUE(members_.Join(kTwo, 77, 10, At(0)).ok());
  members_.Tick(At(0));
  for (double when = 0.4; when < 5; when += 0.4) members_.Tick(At(when));
  EXPECT_EQ(StateOf(kTwo), State::kJoining);
  EXPECT_LE(members_.NextDeadline(), At(5.1));
  for (double when = 5; when < 5.5; when += 0.2) members_.Tick(At(when));
  EXPECT_EQ(StateOf(kTwo), State::kLost);
  const auto next = members_.Join(kTwo, 78, 10, At(6));
  ASSERT_TRUE(next.ok());
  EXPECT_EQ(Value(next->incarnation), 3u) << "the one before may have taken 2";
  EXPECT_EQ(Ping(kTwo, 1, 77, 6), Verdict::kTaken);
}

TEST_F(MembershipTest, APlaceIsGrantedOnceAndWhoMayComeBackKeepsItLongest) {
  Ping(kZero, 1, 1), Ping(kOne, 1, 11);
  EXPECT_THAT(std::string(members_.Join(kOne, 12, 10, At(0)).status().message()),
              HasSubstr("rank 1 is taken"));
  EXPECT_THAT(std::string(members_.Join(InstanceId{3}, 12, 10, At(0)).status().message()),
              HasSubstr("--size-max"));
  members_.Lose(kOne);
  EXPECT_EQ(members_.Join({}, 12, 10, At(0))->instance, kTwo) << "vacant before lost";
  EXPECT_EQ(members_.Join({}, 13, 10, At(0))->instance, kOne);
  EXPECT_THAT(std::string(members_.Join({}, 14, 10, At(0)).status().message()), HasSubstr("all 3 ranks"));
  EXPECT_EQ(Value(members_.members()[1].incarnation), 3u);
  // The one before it is told so, whatever number it takes.
  EXPECT_EQ(Ping(kOne, 1, 11), Verdict::kTaken);
  EXPECT_EQ(Ping(kOne, 9, 11), Verdict::kTaken);
  EXPECT_EQ(Ping(kOne, 3, 13), Verdict::kMember);
}

TEST_F(MembershipTest, AFencedProcessComesBackToAPlaceThatIsStillItsOwn) {
  Ping(kOne, 1, 11);
  members_.Lose(kOne);
  EXPECT_EQ(Ping(kOne, 1, 11), Verdict::kFenced);
  EXPECT_EQ(Ping(kOne, 2, 11), Verdict::kMember);
  ASSERT_TRUE(members_.Join(kTwo, 77, 10, At(0)).ok());
  Ping(kTwo, 1, 77);
  members_.Lose(kTwo);
  EXPECT_EQ(Ping(kTwo, 1, 77), Verdict::kFenced);
  EXPECT_EQ(Ping(kTwo, 2, 77), Verdict::kMember) << "granted, and nobody else came";
}

TEST_F(MembershipTest, WhoDrainsBelongsUntilItHasLeftAndIsNotLostThen) {
  Ping(kOne, 1, 11);
  members_.Drain(kOne);
  EXPECT_EQ(StateOf(kOne), State::kDraining);
  EXPECT_TRUE(members_.IsAlive(kOne, Incarnation{1}));
  EXPECT_EQ(Ping(kOne, 1, 11, 0.5), Verdict::kMember);
  members_.Leave(kOne);
  EXPECT_EQ(StateOf(kOne), State::kLeft);
  members_.Lose(kOne);
  EXPECT_EQ(StateOf(kOne), State::kLeft);
  EXPECT_EQ(members_.lost_count(), 0u);
  EXPECT_EQ(Ping(kOne, 1, 11), Verdict::kFenced);
  EXPECT_EQ(Ping(kOne, 2, 11), Verdict::kFenced) << "for good";
  EXPECT_EQ(Value(members_.Join(kOne, 12, 10, At(1))->incarnation), 2u);
  members_.Drain(kTwo), members_.Leave(kTwo);
  EXPECT_EQ(StateOf(kTwo), State::kVacant);
}

TEST_F(MembershipTest, WhoIsSilentWhileItDrainsIsLost) {
  Ping(kOne, 1, 11);
  members_.Drain(kOne);
  for (double when = 0; when < 1.3; when += 0.2) members_.Tick(At(when));
  EXPECT_EQ(StateOf(kOne), State::kLost);
}

}  // namespace
}  // namespace lombard
