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

TEST(Liveness, RankZeroIsSilentAfterDeadAfterAndLaterBeforeItsFirstWord) {
  const absl::Time start = absl::UnixEpoch();
  Liveness joins(2, 3, absl::Milliseconds(100), absl::Seconds(1));
  joins.RankZeroSilent(start);
  joins.Start(start);
  const absl::Duration first = SilentAfter(joins, start);
  EXPECT_GT(first, absl::Seconds(9)) << "a process that joins has to be connected first";
  EXPECT_LE(first, Liveness::kFirstWord + absl::Milliseconds(200));
  Liveness works(2, 3, absl::Milliseconds(100), absl::Seconds(1));
  works.RankZeroSilent(start);
  works.Heard(1, start);
  works.Heard(0, start);
  EXPECT_LE(SilentAfter(works, start), absl::Seconds(1.2));
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
