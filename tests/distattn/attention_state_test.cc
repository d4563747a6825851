// Goal: any split of the keys, merged in any order and any tree, equals one pass over all keys in float64.
// Tolerance, with n parts: every weight carries one fp32 rounding of exp (2 ulp) and of each product and sum
// on its way, so the relative error of acc / sum is at most (n + 4) * 2^-22 of the largest |v|. Scores
// themselves are exact here: they are fp32 inputs.
#include "distattn/attention_state.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace lombard {
namespace {

struct Owned {
  std::vector<float> acc, max, sum;
  Owned(size_t rows, size_t head_dim) : acc(rows * head_dim), max(rows), sum(rows) { ResetState(view()); }
  AttentionState view() { return {absl::MakeSpan(acc), absl::MakeSpan(max), absl::MakeSpan(sum)}; }
};

struct Problem {
  size_t head_dim, keys;
  std::vector<float> scores, values;  // [keys], [keys, head_dim]

  Owned Part(size_t begin, size_t end) const {
    Owned part(1, head_dim);
    double max = -std::numeric_limits<double>::infinity(), sum = 0;
    for (size_t i = begin; i < end; ++i) max = std::max<double>(max, scores[i]);
    std::vector<double> acc(head_dim);
    for (size_t i = begin; i < end; ++i) {
      const double weight = std::exp(scores[i] - max);
      sum += weight;
      for (size_t d = 0; d < head_dim; ++d) acc[d] += weight * values[i * head_dim + d];
    }
    part.max[0] = static_cast<float>(max), part.sum[0] = static_cast<float>(sum);
    for (size_t d = 0; d < head_dim; ++d) part.acc[d] = static_cast<float>(acc[d]);
    return part;
  }
  std::vector<double> Exact() const {
    double max = -std::numeric_limits<double>::infinity(), sum = 0;
    for (float s : scores) max = std::max<double>(max, s);
    std::vector<double> out(head_dim);
    for (size_t i = 0; i < keys; ++i) {
      const double weight = std::exp(scores[i] - max);
      sum += weight;
      for (size_t d = 0; d < head_dim; ++d) out[d] += weight * values[i * head_dim + d];
    }
    for (double& x : out) x /= sum;
    return out;
  }
};

Problem Random(uint32_t seed, float score_scale) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Problem p{.head_dim = 1 + random() % 130, .keys = 1 + random() % 300, .scores = {}, .values = {}};
  for (size_t i = 0; i < p.keys; ++i) p.scores.push_back(score_scale * normal(random));
  for (size_t i = 0; i < p.keys * p.head_dim; ++i) p.values.push_back(normal(random));
  return p;
}

TEST(AttentionState, AnySplitMergedInAnyOrderIsOnePass) {
  for (float score_scale : {0.01f, 1.0f, 30.0f, 1000.0f}) {
    for (uint32_t seed = 0; seed < 100; ++seed) {
      const Problem p = Random(seed, score_scale);
      std::mt19937 random(seed + 7);
      std::vector<Owned> parts;
      for (size_t begin = 0; begin < p.keys;) {
        const size_t end = std::min(p.keys, begin + random() % 64);  // may be empty
        parts.push_back(p.Part(begin, end));
        begin = end;
      }
      const size_t part_count = parts.size();
      while (parts.size() > 1) {  // a random tree
        const size_t i = random() % parts.size();
        Owned taken = std::move(parts[i]);
        parts.erase(parts.begin() + i);
        MergeInto(taken.view(), parts[random() % parts.size()].view());
      }
      std::vector<float> out(p.head_dim);
      Normalize(parts[0].view(), absl::MakeSpan(out));
      const std::vector<double> exact = p.Exact();
      float largest = 0;
      for (float v : p.values) largest = std::max(largest, std::abs(v));
      for (size_t d = 0; d < p.head_dim; ++d) {
        ASSERT_NEAR(out[d], exact[d], (part_count + 4) * 0x1p-22 * largest)
            << "seed " << seed << ", scores of size " << score_scale << ", " << part_count << " parts";
      }
    }
  }
}

TEST(AttentionState, TheEmptyStateIsTheIdentityFromBothSides) {
  const Problem p = Random(3, 1);
  Owned state = p.Part(0, p.keys), empty(1, p.head_dim);
  const Owned before = state;
  MergeInto(empty.view(), state.view());
  EXPECT_EQ(state.acc, before.acc);
  MergeInto(state.view(), empty.view());
  EXPECT_EQ(empty.acc, before.acc);
  EXPECT_EQ(empty.max, before.max);
  EXPECT_EQ(empty.sum, before.sum);
}

TEST(AttentionState, TwoEmptyStatesStayEmptyAndNormaliseToZero) {
  Owned a(2, 4), b(2, 4);
  MergeInto(a.view(), b.view());
  std::vector<float> out(8, 9.0f);
  Normalize(b.view(), absl::MakeSpan(out));
  EXPECT_EQ(out, std::vector<float>(8, 0.0f));
  EXPECT_EQ(b.sum, std::vector<float>(2, 0.0f));
}

}  // namespace
}  // namespace lombard
