// Prompts that share beginnings, run with the prefix cache on and off on in-process clusters whose free
// blocks hold NaN. Tokens are equal when they are, or first differ where the logprobs of the two best are as
// near as rounding (design: a gap below 0.001 in fp32).
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "tests/support/tiny_model.h"

namespace lombard {
inline constexpr uint32_t kBlock = 16;  // tokens
inline constexpr uint32_t kOutput = 12;

struct Totals {
  uint64_t queried = 0, hit = 0, evicted = 0, preemptions = 0, loans = 0, prefixes = 0, copied = 0;
};

inline Totals Sum(const ClusterRun& run) {
  Totals totals;
  for (const auto& report : run.reports) {
    totals.queried += report.prefix_queried(), totals.hit += report.prefix_hit();
    totals.evicted += report.prefix_evicted(), totals.preemptions += report.preemptions();
    totals.loans += report.loans_granted(), totals.prefixes += report.prefixes_lent();
    totals.copied += report.prefixes_copied();
  }
  return totals;
}

class PrefixTest : public TinyModelTest {
 protected:
  std::vector<int32_t> Tokens(size_t count) {
    std::uniform_int_distribution<int32_t> id(3, model_->config().vocab_size - 1);
    std::vector<int32_t> tokens(count);
    for (int32_t& token : tokens) token = id(random_);
    return tokens;
  }

  // `head` followed by tokens of its own.
  TestSequence After(std::vector<int32_t> head, size_t own) {
    const std::vector<int32_t> tail = Tokens(own);
    head.insert(head.end(), tail.begin(), tail.end());
    TestSequence sequence{.prompt = std::move(head), .sampling = Greedy(kOutput)};
    sequence.sampling.logprobs = 2;
    return sequence;
  }

  static ClusterRun Run(WorkerSettings settings, bool cache, const std::vector<TestSequence>& sequences) {
    settings.engine.prefix_cache = cache;
    return TinyModelTest::Run(settings, sequences);
  }

  // Runs with the cache on and off and returns what the cache did.
  static Totals ExpectEqualTokens(const WorkerSettings& settings,
                                  const std::vector<TestSequence>& sequences) {
    const ClusterRun off = Run(settings, false, sequences), on = Run(settings, true, sequences);
    EXPECT_EQ(Sum(off).queried, 0u);
    for (size_t i = 0; i < sequences.size(); ++i) {
      const SequenceResult &a = off.results[i], &b = on.results[i];
      EXPECT_TRUE(a.error.ok() && b.error.ok()) << i << ": " << a.error << b.error;
      EXPECT_EQ(a.token_ids.size(), kOutput) << i;
      EXPECT_EQ(b.token_ids.size(), kOutput) << i;
      for (size_t t = 0; t < std::min(a.token_ids.size(), b.token_ids.size()); ++t) {
        if (a.token_ids[t] != b.token_ids[t]) {
          const auto& best = a.top_logprobs[t];
          EXPECT_LT(best[0].second - best[1].second, 0.001) << "request " << i << " token " << t;
          break;
        }
        EXPECT_NEAR(a.logprobs[t], b.logprobs[t], 1e-3) << "request " << i << " token " << t;
      }
    }
    return Sum(on);
  }

  std::mt19937 random_{20260101};
};

}  // namespace lombard
