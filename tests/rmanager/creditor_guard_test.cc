#include "rmanager/creditor_guard.h"

#include <gtest/gtest.h>

namespace lombard {
namespace {

class CreditorGuardTest : public testing::Test {
 protected:
  // For so long, own steps compute all the time, in `starved` of which queries lack credit. Returns how many
  // recalls were due.
  int Run(absl::Duration time, double starved, double busy = 1) {
    int recalls = 0;
    for (const absl::Time end = now_ + time; now_ < end;) {
      now_ += absl::Milliseconds(100);
      own_ += 0.1 * busy, starved_ += 0.1 * busy * starved;
      guard_.Observe(own_, starved_, now_);
      recalls += guard_.TakeRecall(now_);
    }
    return recalls;
  }
  CreditorGuard guard_{{.guard = 0.05,
                        .window = absl::Milliseconds(500),
                        .after = absl::Seconds(2),
                        .again = absl::Seconds(5)}};
  absl::Time now_ = absl::UnixEpoch();
  double own_ = 0, starved_ = 0;
};

TEST_F(CreditorGuardTest, BurstsAreLeftToTheDuty) {
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(Run(absl::Seconds(1), 1), 0);
    EXPECT_EQ(Run(absl::Seconds(1), 0.2), 0);
  }
  EXPECT_FALSE(guard_.closed(now_));
}

TEST_F(CreditorGuardTest, OneRequestAfterTheOtherIsCalledBackAndNothingLentForAWhile) {
  EXPECT_EQ(Run(absl::Seconds(3), 0.9), 1);
  EXPECT_TRUE(guard_.closed(now_));
  EXPECT_EQ(Run(absl::Seconds(2), 0.9), 1);  // that was not enough
  EXPECT_EQ(Run(absl::Seconds(4), 0.1), 0);
  EXPECT_TRUE(guard_.closed(now_));
  EXPECT_EQ(Run(absl::Seconds(2), 0.1), 0);
  EXPECT_FALSE(guard_.closed(now_));
}

TEST_F(CreditorGuardTest, WithoutOwnRequestsThereIsNothingToGuard) {
  EXPECT_EQ(Run(absl::Seconds(3), 0.9), 1);
  EXPECT_EQ(Run(absl::Seconds(1), 0, /*busy=*/0), 0);
  EXPECT_FALSE(guard_.closed(now_));
}

TEST_F(CreditorGuardTest, WhatMayBeLentFollowsFromMeasuredRates) {
  EXPECT_EQ(guard_.BlocksMax(0.001), 50);
  EXPECT_EQ(guard_.BlocksMax(0.06), 0);
  EXPECT_EQ(guard_.BlocksMax(0), UINT32_MAX);
}

}  // namespace
}  // namespace lombard
