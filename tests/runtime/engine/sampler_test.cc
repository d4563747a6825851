// Goal: tokens are chosen as the parameters say. Method: a float64 reference of the final distribution,
// written from the definitions (sort everything, filter, renormalise), against greedy picks,
// log-probabilities and chi-square of many draws.
#include "runtime/engine/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <set>

#include "runtime/engine/philox.h"

namespace lombard {
namespace {

using ::testing::ElementsAre;

constexpr float kInf = std::numeric_limits<float>::infinity();

// `logits` as an rvalue copy: Sample uses its argument as scratch.
SampledToken Pick(std::vector<float> logits, const SamplingParams& params, std::vector<int32_t> prompt = {},
                  std::vector<int32_t> output = {}, uint32_t sample_index = 0,
                  std::vector<int32_t> eos = {}) {
  return Sample(absl::MakeSpan(logits), params, prompt, output, sample_index, eos);
}

std::vector<float> RandomLogits(size_t size, uint64_t seed, double spread = 3) {
  std::mt19937_64 rng(seed);
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> logits(size);
  for (float& logit : logits) logit = normal(rng);
  return logits;
}

// Probability of each token: penalties, temperature, min_p, top_k, top_p by their definitions.
std::vector<double> ReferenceDistribution(const std::vector<float>& logits, const SamplingParams& params,
                                          const std::vector<int32_t>& prompt,
                                          const std::vector<int32_t>& output) {
  std::vector<double> x(logits.begin(), logits.end());
  std::set<int32_t> all(prompt.begin(), prompt.end());
  all.insert(output.begin(), output.end());
  for (int32_t id : all)
    x[id] = x[id] > 0 ? x[id] / params.repetition_penalty : x[id] * params.repetition_penalty;
  for (int32_t id : output) x[id] -= params.frequency_penalty;
  for (int32_t id : std::set<int32_t>(output.begin(), output.end())) x[id] -= params.presence_penalty;

  std::vector<double> p(x.size());
  const double max = *std::max_element(x.begin(), x.end());
  const auto normalise = [&p] {
    const double sum = std::accumulate(p.begin(), p.end(), 0.0);
    for (double& value : p) value /= sum;
  };
  for (size_t i = 0; i < x.size(); ++i) p[i] = std::exp((x[i] - max) / params.temperature);
  normalise();
  const double best = *std::max_element(p.begin(), p.end());
  for (double& value : p) value = value >= params.min_p * best ? value : 0;
  normalise();
  std::vector<size_t> order(p.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return p[a] > p[b]; });
  for (size_t i = 0; i < order.size(); ++i) {
    if (params.top_k > 0 && i >= params.top_k) p[order[i]] = 0;
  }
  normalise();
  double before = 0;
  for (size_t i : order) {
    const double own = p[i];
    if (before >= params.top_p) p[i] = 0;
    before += own;
  }
  normalise();
  return p;
}

// Chi-square of `draws` samples, each at another position, against the reference; tokens outside its support
// must never appear.
void ExpectDistribution(const std::vector<float>& logits, const SamplingParams& params,
                        std::vector<int32_t> prompt = {}, std::vector<int32_t> output = {}) {
  const auto p = ReferenceDistribution(logits, params, prompt, output);
  constexpr int kDraws = 20000;
  std::vector<int> counts(p.size(), 0);
  SamplingParams each = params;
  for (int i = 0; i < kDraws; ++i) {
    each.seed = params.seed + i;
    const int32_t id = Pick(logits, each, prompt, output).id;
    ASSERT_TRUE(id >= 0 && id < p.size());
    ASSERT_GT(p[id], 0) << "token " << id << " was filtered out, seed " << each.seed;
    ++counts[id];
  }
  double chi2 = 0, rest_expected = 0, rest_seen = 0;
  int cells = 0;
  const auto add = [&](double expected, double seen) {
    chi2 += (seen - expected) * (seen - expected) / expected;
    ++cells;
  };
  for (size_t i = 0; i < p.size(); ++i) {
    const double expected = p[i] * kDraws;
    if (expected >= 5) {
      add(expected, counts[i]);
    } else {
      rest_expected += expected, rest_seen += counts[i];
    }
  }
  if (rest_expected >= 5) add(rest_expected, rest_seen);
  // Wilson and Hilferty's approximation of the quantile at 4 standard deviations (one false alarm in 30,000).
  const double df = std::max(cells - 1, 1);
  const double limit = df * std::pow(1 - 2 / (9 * df) + 4 * std::sqrt(2 / (9 * df)), 3);
  EXPECT_LT(chi2, limit) << "df " << df << ", first seed " << params.seed;
}

TEST(Philox, GivesTheKnownAnswersOfItsAuthors) {
  constexpr uint32_t kOnes = 0xffffffffu;
  EXPECT_THAT(Philox({0, 0, 0, 0}, {0, 0}), ElementsAre(0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u));
  EXPECT_THAT(Philox({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}),
              ElementsAre(0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu));
  EXPECT_THAT(Philox({0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}, {0xa4093822u, 0x299f31d0u}),
              ElementsAre(0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u));
}

TEST(Sampler, GreedyTakesTheHighestAndTheLowestIdOfEquals) {
  EXPECT_EQ(Pick({0, 3, 1, 3, -2}, {}).id, 1);
  EXPECT_EQ(Pick({5, 5, 5}, {}).id, 0);
  EXPECT_EQ(Pick({-kInf, -4, -kInf}, {}).id, 1);
}

TEST(Sampler, BrokenLogitsAreSurvived) {
  const float nan = std::nanf("");
  EXPECT_EQ(Pick({nan, 1, nan, 2}, {}).id, 3);
  EXPECT_EQ(Pick({1, kInf, 2}, {}).id, 1);
  SamplingParams hot{.temperature = 1, .logprobs = 1};
  EXPECT_EQ(Pick({1, kInf, 2}, hot).id, 1);
  EXPECT_EQ(Pick({nan, nan}, {}).id, -1);
  EXPECT_EQ(Pick({-kInf, nan}, hot).id, -1);
}

TEST(Sampler, DrawsFollowTheDistribution) {
  struct Case {
    const char* name;
    SamplingParams params;
  };
  const Case cases[] = {
      {"temperature 1", {.temperature = 1}},
      {"cold", {.temperature = 0.4}},
      {"hot", {.temperature = 2.5}},
      {"top_k", {.temperature = 1, .top_k = 7}},
      {"top_k 1", {.temperature = 1, .top_k = 1}},
      {"top_p", {.temperature = 1, .top_p = 0.8}},
      {"small top_p", {.temperature = 1, .top_p = 0.01}},
      {"min_p", {.temperature = 1, .min_p = 0.1}},
      {"all", {.temperature = 1.3, .top_k = 20, .top_p = 0.9, .min_p = 0.02}},
  };
  uint64_t seed = 1000;
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    SamplingParams params = c.params;
    params.seed = seed += 100000;
    ExpectDistribution(RandomLogits(50, seed, 1.5), params);
  }
}

TEST(Sampler, PenaltiesChangeTheDistributionAsDefined) {
  const std::vector<int32_t> prompt = {0, 1, 2, 2, 9}, output = {3, 3, 3, 4, 9, 9};
  for (const auto& [repetition, presence, frequency] :
       {std::tuple{1.8, 0.0, 0.0}, {1.0, 1.2, 0.0}, {1.0, 0.0, 0.7}, {0.7, -0.5, -0.3}, {1.3, 0.6, 0.4}}) {
    SamplingParams params{.temperature = 1,
                          .seed = 77,
                          .repetition_penalty = repetition,
                          .presence_penalty = presence,
                          .frequency_penalty = frequency};
    ExpectDistribution(RandomLogits(12, 5, 1), params, prompt, output);
  }
}

TEST(Sampler, GreedyObeysPenaltiesToo) {
  const std::vector<float> logits = {4.0f, 3.0f, 2.5f};
  EXPECT_EQ(Pick(logits, {.repetition_penalty = 1.5}, {0}).id, 1);          // prompt counts: 4 / 1.5 < 3
  EXPECT_EQ(Pick(logits, {.presence_penalty = 1.1}, {0}).id, 0);            // prompt does not
  EXPECT_EQ(Pick(logits, {.presence_penalty = 1.1}, {}, {0}).id, 1);        // 2.9 against 3
  EXPECT_EQ(Pick(logits, {.frequency_penalty = 0.6}, {}, {0}).id, 0);       // 3.4
  EXPECT_EQ(Pick(logits, {.frequency_penalty = 0.6}, {}, {0, 0}).id, 1);    // 2.8
  EXPECT_EQ(Pick({-1.0f, -1.2f}, {.repetition_penalty = 1.5}, {0}).id, 1);  // a negative logit moves down
}

TEST(Sampler, MinTokensTakesStopIdsOut) {
  SamplingParams params{.min_tokens = 2, .stop_token_ids = {1}};
  const std::vector<float> logits = {5, 4, 3};
  EXPECT_EQ(Pick(logits, params, {}, {}, 0, {0}).id, 2);
  EXPECT_EQ(Pick(logits, params, {}, {2}, 0, {0}).id, 2);
  EXPECT_EQ(Pick(logits, params, {}, {2, 2}, 0, {0}).id, 0);  // enough tokens
  params.ignore_eos = true;                                   // then eos is a token like any other
  EXPECT_EQ(Pick(logits, params, {}, {}, 0, {0}).id, 0);
  params.ignore_eos = false;
  EXPECT_EQ(Pick({5, 4}, params, {}, {}, 0, {0}).id, -1);  // nothing is left
  EXPECT_EQ(Pick(logits, params, {}, {}, 0, {0, 70000, -3}).id, 2)
      << "ids outside the vocabulary are not there to take out";
}

TEST(Sampler, LogprobsAreThoseOfTheModelNotOfTheFilters) {
  const auto logits = RandomLogits(3000, 11);
  double max = *std::max_element(logits.begin(), logits.end()), sum = 0;
  for (float logit : logits) sum += std::exp(static_cast<double>(logit) - max);
  const double log_sum = max + std::log(sum);
  SamplingParams params{.temperature = 0.7,
                        .top_k = 40,
                        .top_p = 0.9,
                        .seed = 3,
                        .repetition_penalty = 1.4,
                        .presence_penalty = 0.3,
                        .logprobs = 5};
  std::vector<size_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  const SampledToken token = Pick(logits, params, {1, 2, 3}, {4, 5});
  // A log-probability is one fp32 rounding away from the float64 one; they are below 32 in magnitude here.
  constexpr double kTolerance = 32 * 0x1p-24;
  EXPECT_NEAR(token.logprob, logits[token.id] - log_sum, kTolerance);
  ASSERT_EQ(token.top.size(), 5);
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(token.top[i].first, order[i]);
    EXPECT_NEAR(token.top[i].second, logits[order[i]] - log_sum, kTolerance);
  }
  params.logprobs.reset();
  const SampledToken without = Pick(logits, params, {1, 2, 3}, {4, 5});
  EXPECT_EQ(without.id, token.id) << "asking for log-probabilities must not change the choice";
  EXPECT_TRUE(without.top.empty());
}

TEST(Sampler, TopLogprobsOfATinyVocabularyAreAllOfIt) {
  const SampledToken token = Pick({1, 1, 0}, {.logprobs = 20});
  ASSERT_EQ(token.top.size(), 3);
  EXPECT_EQ(token.top[0].first, 0);
  EXPECT_EQ(token.top[1].first, 1);
  EXPECT_EQ(token.top[2].first, 2);
}

TEST(Sampler, TheDrawDependsOnSeedSampleAndPositionAlone) {
  const auto logits = RandomLogits(1000, 21, 0.1);
  const SamplingParams params{.temperature = 1, .seed = 42};
  const int32_t id = Pick(logits, params, {1, 2, 3}, {4}).id;
  EXPECT_EQ(Pick(logits, params, {1, 2, 3}, {4}).id, id);
  EXPECT_EQ(Pick(logits, params, {9, 9}, {9, 9}).id, id)
      << "same position, no penalties: other tokens do not matter";
  std::set<int32_t> positions, samples, seeds;
  for (int i = 0; i < 50; ++i) {
    positions.insert(Pick(logits, params, std::vector<int32_t>(i, 1)).id);
    samples.insert(Pick(logits, params, {}, {}, i).id);
    seeds.insert(Pick(logits, {.temperature = 1, .seed = uint64_t(i) << 40}).id);
  }
  // 50 draws among 1000 nearly equal tokens: fewer than 40 different ones would mean correlation.
  EXPECT_GT(positions.size(), 40);
  EXPECT_GT(samples.size(), 40);
  EXPECT_GT(seeds.size(), 40);
}

TEST(Sampler, FiltersKeepTheLowestIdsOfEquals) {
  const std::vector<float> flat(100, 1.0f);
  for (const SamplingParams& base :
       {SamplingParams{.temperature = 1, .top_k = 3}, SamplingParams{.temperature = 1, .top_p = 0.03}}) {
    std::set<int32_t> seen;
    for (uint64_t seed = 0; seed < 200; ++seed) {
      SamplingParams params = base;
      params.seed = seed;
      seen.insert(Pick(flat, params).id);
    }
    EXPECT_THAT(seen, ElementsAre(0, 1, 2));
  }
}

}  // namespace
}  // namespace lombard
