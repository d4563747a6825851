// Goal: percentiles are right, exact while values are few and to the stated error when they are many, in
// bounded memory.
#include "runtime/generate/distribution.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace lombard {
namespace {

TEST(Percentiles, InterpolateBetweenNeighbours) {
  const Percentiles p = PercentilesOf({5, 1, 3, 2, 4});
  EXPECT_EQ(p.count, 5);
  EXPECT_DOUBLE_EQ(p.mean, 3);
  EXPECT_DOUBLE_EQ(p.p50, 3);
  EXPECT_DOUBLE_EQ(p.p90, 4.6);
  EXPECT_DOUBLE_EQ(p.p99, 4.96);
  const Percentiles one = PercentilesOf({7});
  EXPECT_EQ(one.p50, 7);
  EXPECT_EQ(one.p99, 7);
}

TEST(Distribution, IsExactWhileValuesAreFew) {
  Distribution few;
  std::vector<double> values;
  for (int i = 0; i < 1000; ++i) few.Add(values.emplace_back(std::fmod(i * 0.37, 1.0)));
  const Percentiles got = few.percentiles(), right = PercentilesOf(values);
  EXPECT_EQ(got.count, 1000);
  EXPECT_EQ(got.p50, right.p50);
  EXPECT_EQ(got.p99, right.p99);
  EXPECT_EQ(Distribution().percentiles().count, 0);
}

// Neighbours of these distributions are closer than 0.1 % at the asked places but for the tail, so that the
// bound of one bucket is all there is.
TEST(Distribution, KeepsTheErrorWhenTheyAreMany) {
  for (const double scale : {1e-6, 1.0, 1e5}) {
    std::mt19937_64 random(7);
    std::exponential_distribution<double> times(1 / scale);
    Distribution many;
    std::vector<double> values;
    for (size_t i = 0; i < 5 * Distribution::kExact; ++i) many.Add(values.emplace_back(times(random)));
    const Percentiles got = many.percentiles(), right = PercentilesOf(values);
    EXPECT_EQ(got.count, right.count);
    EXPECT_NEAR(got.mean, right.mean, 1e-9 * scale);
    const double bound = Distribution::kError + 0.001;
    EXPECT_NEAR(got.p50, right.p50, bound * right.p50);
    EXPECT_NEAR(got.p90, right.p90, bound * right.p90);
    EXPECT_NEAR(got.p95, right.p95, bound * right.p95);
    EXPECT_NEAR(got.p99, right.p99, bound * right.p99);
  }
}

TEST(Distribution, CountsZeros) {
  Distribution zeros;
  for (size_t i = 0; i <= Distribution::kExact; ++i) zeros.Add(0);
  EXPECT_LE(zeros.percentiles().p99, 2 * Distribution::kLeast);
}

}  // namespace
}  // namespace lombard
