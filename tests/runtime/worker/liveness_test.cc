#include "runtime/worker/liveness.h"

#include <gtest/gtest.h>

namespace lombard {
namespace {

// Calls every 100 ms until it says so.
absl::Duration SilentAfter(Liveness& liveness, absl::Time from) {
  for (absl::Time now = from;; now += absl::Milliseconds(100)) {
    if (liveness.RankZeroSilent(now) || now - from > absl::Minutes(1)) return now - from;
  }
}

TEST(Liveness, WhoIsCutOffIsPatientAndABrokenConnectionIsJudgedSooner) {
  const absl::Time start = absl::UnixEpoch();
  Liveness joins(2, 3, absl::Milliseconds(100), absl::Seconds(1));
  joins.RankZeroSilent(start);
  joins.Start(start);
  joins.Down(0, true, start);
  const absl::Duration first = SilentAfter(joins, start);
  EXPECT_GT(first, absl::Seconds(9)) << "it has to be connected first";
  EXPECT_LT(first, absl::Seconds(11));
  Liveness cut(2, 3, absl::Milliseconds(100), absl::Seconds(1));
  cut.RankZeroSilent(start);
  cut.Heard(1, start);
  cut.Heard(0, start);
  const absl::Duration patience = SilentAfter(cut, start);
  EXPECT_GT(patience, absl::Seconds(9));
  EXPECT_LT(patience, absl::Seconds(11));
  Liveness broken(2, 3, absl::Milliseconds(100), absl::Seconds(1));
  broken.RankZeroSilent(start);
  broken.Heard(0, start);
  broken.Down(0, true, start);
  const absl::Duration sooner = SilentAfter(broken, start);
  EXPECT_GT(sooner, absl::Seconds(1));
  EXPECT_LE(sooner, absl::Seconds(1.2));
  broken.Down(0, false, start + absl::Seconds(2));
  broken.Heard(0, start + absl::Seconds(2));
  EXPECT_FALSE(broken.RankZeroSilent(start + absl::Seconds(2.1)));
}

TEST(Liveness, APeerThatIsNotHeardAnyMoreIsToldOnceUntilItIsHeardAgain) {
  const absl::Time start = absl::UnixEpoch();
  Liveness liveness(1, 4, absl::Milliseconds(100), absl::Seconds(1));
  liveness.RankZeroSilent(start);
  EXPECT_FALSE(liveness.Heard(2, start));
  const auto silent = [&](double seconds) {
    const absl::Time now = start + absl::Seconds(seconds);
    liveness.RankZeroSilent(now);
    return liveness.TakeSilent(now);
  };
  for (double t = 0.4; t < 2; t += 0.4) EXPECT_TRUE(silent(t).empty()) << t;
  silent(2.0);
  EXPECT_EQ(silent(2.2), std::vector<int>{2}) << "rank 3 was never heard";
  EXPECT_TRUE(silent(2.4).empty());
  EXPECT_TRUE(liveness.Heard(2, start + absl::Seconds(2.5)));
  EXPECT_FALSE(liveness.Heard(2, start + absl::Seconds(2.6)));
  for (double t = 2.6; t < 4.5; t += 0.4) EXPECT_TRUE(silent(t).empty()) << t;
  silent(4.5);
  EXPECT_EQ(silent(4.7), std::vector<int>{2});
}

TEST(Liveness, EveryonePingsRankZeroAndTheOthersLessOften) {
  Liveness liveness(1, 4, absl::Milliseconds(100), absl::Seconds(1));
  int to_zero = 0, to_three = 0;
  for (int i = 0; i < 100; ++i) {
    for (int peer : liveness.PingsDue(absl::UnixEpoch() + i * absl::Milliseconds(100)))
      to_zero += peer == 0, to_three += peer == 3;
  }
  EXPECT_EQ(to_zero, 100);
  EXPECT_EQ(to_three, 20);
}

TEST(Liveness, ItsOwnSleepIsNotHeldAgainstRankZero) {
  const absl::Time start = absl::UnixEpoch();
  Liveness liveness(1, 2, absl::Milliseconds(100), absl::Seconds(1));
  liveness.RankZeroSilent(start);
  liveness.Heard(0, start);
  EXPECT_FALSE(liveness.RankZeroSilent(start + absl::Seconds(5)));
  const absl::Duration awake = SilentAfter(liveness, start + absl::Seconds(5));
  EXPECT_GT(awake, absl::Seconds(9));
  EXPECT_LT(awake, absl::Seconds(11));
}

}  // namespace
}  // namespace lombard
