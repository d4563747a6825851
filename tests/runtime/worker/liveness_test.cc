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
  EXPECT_GT(SilentAfter(joins, start), absl::Seconds(9)) << "it has to be connected first";
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
  EXPECT_LE(SilentAfter(broken, start), absl::Seconds(1.2));
  broken.Down(0, false, start + absl::Seconds(2));
  broken.Heard(0, start + absl::Seconds(2));
  EXPECT_FALSE(broken.RankZeroSilent(start + absl::Seconds(2.1)));
}

TEST(Liveness, ItsOwnSleepIsNotHeldAgainstRankZero) {
  const absl::Time start = absl::UnixEpoch();
  Liveness liveness(1, 2, absl::Milliseconds(100), absl::Seconds(1));
  liveness.RankZeroSilent(start);
  liveness.Heard(0, start);
  EXPECT_FALSE(liveness.RankZeroSilent(start + absl::Seconds(5)));
  EXPECT_GT(SilentAfter(liveness, start + absl::Seconds(5)), absl::Seconds(0.9));
}

}  // namespace
}  // namespace lombard
