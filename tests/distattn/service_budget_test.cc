#include "distattn/service_budget.h"

#include <gtest/gtest.h>

#include <random>

namespace lombard {
namespace {

TEST(ServiceBudget, ServiceIsFreeWhileNoOwnRequestRuns) {
  ServiceBudget budget(0.05);
  EXPECT_TRUE(budget.MayAttend());
  budget.Attended(100);
  EXPECT_TRUE(budget.MayAttend());
  EXPECT_EQ(budget.totals().attended, 0);
}

TEST(ServiceBudget, OwnStepsGiveCreditThatIsVoidWhenTheNextOneEnds) {
  ServiceBudget budget(0.05);
  budget.OwnBegins();
  EXPECT_FALSE(budget.MayAttend());
  budget.OwnEnds(1, /*held=*/true);
  budget.OwnBegins();
  budget.OwnEnds(1, /*held=*/false);
  EXPECT_TRUE(budget.MayAttend());
  budget.Attended(0.03);
  EXPECT_TRUE(budget.MayAttend());
  budget.Attended(0.03);  // the first step's credit is not there any more
  EXPECT_FALSE(budget.MayAttend());
  EXPECT_DOUBLE_EQ(budget.totals().own, 2);
  EXPECT_DOUBLE_EQ(budget.totals().starved, 1);
  EXPECT_DOUBLE_EQ(budget.totals().attended, 0.06);
}

TEST(ServiceBudget, WhatWasTakenBeyondTheCreditIsOwed) {
  ServiceBudget budget(0.1);
  budget.OwnBegins();
  budget.OwnEnds(1, false);
  budget.Attended(0.25);
  budget.OwnEnds(1, false);
  EXPECT_FALSE(budget.MayAttend());  // 0.05 are still owed
  budget.OwnEnds(1, false);
  EXPECT_TRUE(budget.MayAttend());
  budget.Moved(0.2);  // KV is not held up, but counts
  EXPECT_FALSE(budget.MayAttend());
  budget.OwnIdle();
  budget.OwnBegins();
  budget.OwnEnds(0.1, false);
  EXPECT_TRUE(budget.MayAttend()) << "what was owed is forgiven";
}

TEST(ServiceBudget, ServiceIsFreeWhileTheOwnStepWaitsForOthers) {
  ServiceBudget budget(0.05);
  budget.OwnBegins();
  budget.OwnWaits(true);
  EXPECT_TRUE(budget.MayAttend());
  budget.Attended(1);
  budget.OwnWaits(false);
  EXPECT_FALSE(budget.MayAttend());
  budget.OwnEnds(1, false);
  EXPECT_TRUE(budget.MayAttend());
}

// Whoever attends whenever it may keeps within the share over any run of own steps, but for one slice.
TEST(ServiceBudget, TheShareHoldsOverAnyStepsInARow) {
  std::mt19937 random(7);
  const auto draw = [&](double most) { return most * static_cast<double>(random() % 1000 + 1) / 1000; };
  for (const double guard : {0.01, 0.05, 0.5}) {
    ServiceBudget budget(guard);
    double excess = 0, last = 0;
    const double slice_max = 0.02;
    for (int step = 0; step < 2000; ++step) {
      budget.OwnBegins();
      double attended = 0;
      while (budget.MayAttend() && random() % 8 != 0) {
        const double slice = draw(slice_max);
        budget.Attended(slice);
        attended += slice;
      }
      excess = std::max(0.0, excess + attended - guard * last);
      ASSERT_LE(excess, slice_max + 1e-9) << "guard " << guard << ", step " << step;
      last = draw(0.1);
      budget.OwnEnds(last, false);
    }
  }
}

}  // namespace
}  // namespace lombard
