// Sampling on a GPU against the CPU's sampler: the same logits, parameters and random numbers must give the
// same tokens. Roundings differ (kernels/cuda/sample.h), so a draw within 1e-6 of a boundary could differ;
// the seeds are fixed, and none of these does.
#include "runtime/engine/gpu/gpu_sampler.h"

#include <limits>

#include "tests/kernels/cuda/gpu_test.h"

namespace lombard {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

class GpuSamplerTest : public GpuTest {
 protected:
  struct Row {
    std::vector<float> logits;
    SamplingParams params;
    std::vector<int32_t> prompt, output;
    uint32_t sample_index = 0;
  };

  std::vector<float> Logits(int vocabulary, float spread) {
    std::normal_distribution<float> normal(0, spread);
    std::vector<float> logits(vocabulary);
    for (float& logit : logits) logit = normal(random());
    return logits;
  }
  std::vector<int32_t> Ids(int vocabulary, int count) {
    std::vector<int32_t> ids(count);
    for (int32_t& id : ids) id = static_cast<int32_t>(random()() % vocabulary);
    return ids;
  }
  double Uniform() { return std::uniform_real_distribution<double>(0, 1)(random()); }

  void ExpectSameTokens(const std::vector<Row>& rows, const std::vector<int32_t>& eos_ids) {
    const int vocabulary = static_cast<int>(rows[0].logits.size());
    std::vector<float> all;
    std::vector<RowSampling> sampling;
    for (const Row& row : rows) {
      all.insert(all.end(), row.logits.begin(), row.logits.end());
      sampling.push_back({.params = &row.params,
                          .prompt = row.prompt,
                          .output = row.output,
                          .sample_index = row.sample_index});
    }
    const DeviceMemory logits = Upload(all);
    GpuSampler sampler(vocabulary, eos_ids);
    GpuTables tables;
    CHECK_OK(sampler.Reserve(stream().device(), static_cast<int>(rows.size())));
    sampler.Begin(sampling, &tables);
    CHECK_OK(tables.Send(stream()));
    CHECK_OK(sampler.Enqueue(stream(), logits.data<float>(), tables));
    const absl::Status ran = stream().Synchronize();
    EXPECT_TRUE(ran.ok()) << ran;
    StepResult result;
    sampler.Take(&result);

    ASSERT_EQ(result.sampled.size(), rows.size());
    for (size_t i = 0; i < rows.size(); ++i) {
      const Row& row = rows[i];
      std::vector<float> scratch = row.logits;
      const SampledToken expected =
          Sample(absl::MakeSpan(scratch), row.params, row.prompt, row.output, row.sample_index, eos_ids);
      SCOPED_TRACE(testing::Message() << "row " << i << " of " << vocabulary << ": temperature "
                                      << row.params.temperature << ", top_k " << row.params.top_k
                                      << ", top_p " << row.params.top_p << ", min_p " << row.params.min_p);
      ASSERT_TRUE(result.sampled[i].has_value());
      const SampledToken& got = *result.sampled[i];
      EXPECT_EQ(got.id, expected.id);
      // exp and log err by a few units in the last place, times the temperature where a weight is taken back.
      const double bound = 1e-5 * (1 + row.params.temperature);
      EXPECT_NEAR(got.logprob, expected.logprob, bound);
      EXPECT_EQ(got.top.size(), expected.top.size());
      for (size_t t = 0; t < std::min(got.top.size(), expected.top.size()); ++t) {
        EXPECT_EQ(got.top[t].first, expected.top[t].first) << t;
        if (std::isfinite(expected.top[t].second)) {
          EXPECT_NEAR(got.top[t].second, expected.top[t].second, 1e-5) << t;
        } else {
          EXPECT_EQ(got.top[t].second, expected.top[t].second) << t;
        }
      }
    }
  }
};

TEST_P(GpuSamplerTest, GivesTheSameTokensWhateverIsAsked) {
  for (const int vocabulary : {1, 7, 552, 2000}) {
    std::vector<Row> rows;
    for (int i = 0; i < (vocabulary > 1000 ? 3 : 8); ++i) {
      Row row{.logits = Logits(vocabulary, i % 2 == 0 ? 3.0f : 0.5f)};
      SamplingParams& params = row.params;
      params.seed = random()();
      row.sample_index = static_cast<uint32_t>(i);
      if (i % 4 != 0) params.temperature = 0.2 + 2 * Uniform();
      if (random()() % 2) params.top_k = Pick(random(), {1, 2, 40, 551, 5000, -1});
      if (random()() % 2) params.top_p = 0.05 + 0.95 * Uniform();
      if (random()() % 3 == 0) params.min_p = 0.3 * Uniform();
      row.prompt = Ids(vocabulary, 5), row.output = Ids(vocabulary, static_cast<int>(random()() % 9));
      if (random()() % 2) params.logprobs = Pick(random(), {0, 1, 5, 20});
      if (i % 5 != 0) {
        if (random()() % 2) params.repetition_penalty = 0.5 + Uniform();
        if (random()() % 2) params.presence_penalty = 2 * Uniform() - 1;
        if (random()() % 2) params.frequency_penalty = 2 * Uniform() - 1;
        params.max_tokens = 16, params.min_tokens = Pick(random(), {0, 0, 16});
        params.stop_token_ids = Ids(vocabulary, 2);
      }
      rows.push_back(std::move(row));
    }
    ExpectSameTokens(rows, {0, vocabulary / 2});
  }
}

TEST_P(GpuSamplerTest, TiesAndNonFiniteLogitsAreTheSame) {
  std::vector<Row> rows;
  const std::vector<std::vector<float>> hard = {
      std::vector<float>(600, 1.5f),
      std::vector<float>(600, -kInfinity),
      std::vector<float>(600, std::numeric_limits<float>::quiet_NaN()),
      {},
  };
  for (std::vector<float> logits : hard) {
    if (logits.empty()) {
      logits = Logits(600, 1);
      for (int i = 0; i < 600; i += 3) logits[i] = i % 2 == 0 ? kInfinity : -kInfinity;
      logits[17] = std::numeric_limits<float>::quiet_NaN();
    }
    for (const double temperature : {0.0, 1.0}) {
      for (const int top_k : {0, 7}) {
        for (const double top_p : {1.0, 0.4}) {
          Row row{.logits = logits};
          row.params.temperature = temperature, row.params.top_k = top_k, row.params.top_p = top_p;
          row.params.seed = random()();
          rows.push_back(row);
        }
      }
    }
  }
  ExpectSameTokens(rows, {});
}

// Log-probabilities are of the unchanged logits, also of a token that a change brought to the top, or that was
// changed itself.
TEST_P(GpuSamplerTest, LogprobsBesidePenaltiesAreOfTheUnchangedLogits) {
  Row promoted{.logits = {1, 5, 4.5f, -2}}, repeated = promoted, nothing_left = promoted;
  promoted.params.logprobs = 3, promoted.params.presence_penalty = 1, promoted.output = {1};
  repeated.params.logprobs = 0, repeated.params.frequency_penalty = 0.1, repeated.output = {1, 1};
  nothing_left.params.logprobs = 2, nothing_left.params.max_tokens = nothing_left.params.min_tokens = 4;
  nothing_left.params.stop_token_ids = {0, 1, 2, 3};
  std::vector<Row> rows = {promoted, repeated, nothing_left};
  for (Row row : {promoted, repeated}) {
    row.params.temperature = 0.7, row.params.seed = random()();
    rows.push_back(row);
  }
  ExpectSameTokens(rows, {});
}

INSTANTIATE_TEST_SUITE_P(Seed, GpuSamplerTest, testing::Range(1, 3));

}  // namespace
}  // namespace lombard
