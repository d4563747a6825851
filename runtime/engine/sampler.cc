#include "runtime/engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"
#include "runtime/engine/philox.h"

namespace lombard {
namespace {

constexpr float kLargest = std::numeric_limits<float>::max();
constexpr float kLowest = -std::numeric_limits<float>::infinity();

void Sanitise(absl::Span<float> logits) {
  for (float& logit : logits) {
    if (std::isnan(logit)) logit = kLowest;
    logit = std::min(logit, kLargest);
  }
}

int32_t ArgMax(absl::Span<const float> logits) {
  size_t best = 0;
  for (size_t i = 1; i < logits.size(); ++i) {
    if (logits[i] > logits[best]) best = i;
  }
  return logits[best] == kLowest ? -1 : static_cast<int32_t>(best);
}

// log(sum(exp(logits))) around the largest; REQUIRES one finite.
double LogSumExp(absl::Span<const float> logits) {
  const double max = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - max);
  return max + std::log(sum);
}

struct Candidate {
  float weight;
  int32_t id;
};
bool Better(const Candidate& a, const Candidate& b) {
  return a.weight > b.weight || (a.weight == b.weight && a.id < b.id);
}

double Sum(absl::Span<const Candidate> candidates) {
  double sum = 0;
  for (const Candidate& c : candidates) sum += c.weight;
  return sum;
}

std::vector<std::pair<int32_t, float>> TopLogprobs(absl::Span<const float> logits, double log_sum,
                                                   size_t count) {
  std::vector<Candidate> best;  // sorted, at most `count`
  for (size_t i = 0; i < logits.size() && count > 0; ++i) {
    const Candidate next{logits[i], static_cast<int32_t>(i)};
    if (best.size() == count) {
      if (!Better(next, best.back())) continue;
      best.pop_back();
    }
    best.insert(std::upper_bound(best.begin(), best.end(), next, Better), next);
  }
  std::vector<std::pair<int32_t, float>> top;
  for (const Candidate& c : best) top.emplace_back(c.id, static_cast<float>(c.weight - log_sum));
  return top;
}

void TakeOut(absl::Span<const int32_t> ids, absl::Span<float> logits) {
  for (const int32_t id : ids) {
    if (id >= 0 && id < logits.size()) logits[id] = kLowest;
  }
}

void Penalise(const SamplingParams& params, absl::Span<const int32_t> prompt,
              absl::Span<const int32_t> output, absl::Span<float> logits) {
  if (params.repetition_penalty != 1) {
    const float penalty = static_cast<float>(params.repetition_penalty);
    std::vector<uint8_t> seen(logits.size(), 0);
    for (const absl::Span<const int32_t> ids : {prompt, output}) {
      for (const int32_t id : ids) {
        CHECK(id >= 0 && id < logits.size()) << id;
        if (seen[id]) continue;
        seen[id] = 1;
        logits[id] = logits[id] > 0 ? std::min(logits[id] / penalty, kLargest) : logits[id] * penalty;
      }
    }
  }
  if (params.frequency_penalty != 0 || params.presence_penalty != 0) {
    std::vector<uint32_t> counts(logits.size(), 0);
    for (const int32_t id : output) {
      CHECK(id >= 0 && id < logits.size()) << id;
      ++counts[id];
    }
    for (size_t i = 0; i < counts.size(); ++i) {
      if (counts[i] > 0)
        logits[i] -= static_cast<float>(params.frequency_penalty * counts[i] + params.presence_penalty);
    }
  }
}

// The first index at which the running sum of weights exceeds u times their total. Weights of 0 are never
// drawn.
template <typename Weights, typename WeightOf>
size_t Draw(const Weights& weights, WeightOf weight_of, double total, double u) {
  const double target = u * total;
  double sum = 0;
  size_t last = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    const double weight = weight_of(weights[i]);
    if (weight <= 0) continue;
    sum += weight;
    last = i;
    if (sum > target) break;
  }
  return last;  // rounding may keep the sum from reaching a target next to the total
}

// The k best of the weights that are at least `floor`, sorted. A heap with the worst on top: most tokens fail
// one comparison.
std::vector<Candidate> KeepTopK(absl::Span<const float> weights, double floor, size_t k) {
  std::vector<Candidate> kept;
  for (size_t i = 0; i < weights.size(); ++i) {
    const Candidate next{weights[i], static_cast<int32_t>(i)};
    if (weights[i] <= 0 || weights[i] < floor) continue;
    if (kept.size() == k) {
      if (!Better(next, kept.front())) continue;
      std::pop_heap(kept.begin(), kept.end(), Better);
      kept.pop_back();
    }
    kept.push_back(next);
    std::push_heap(kept.begin(), kept.end(), Better);
  }
  std::sort(kept.begin(), kept.end(), Better);
  return kept;
}

// The smallest best set with the share `top_p` of the weights that are at least `floor`, sorted.
std::vector<Candidate> KeepTopP(absl::Span<const float> weights, double floor, double top_p) {
  double all = 0;
  for (const float weight : weights) all += weight >= floor ? weight : 0;
  // What lies below this has less than 1 - top_p together: the set is full before the first of it.
  floor = std::max(floor, (1 - top_p) * all / weights.size());
  std::vector<Candidate> kept;
  for (size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] > 0 && weights[i] >= floor) kept.push_back({weights[i], static_cast<int32_t>(i)});
  }
  // The set is usually small: a heap gives its members in order without sorting the rest.
  const auto worse = [](const Candidate& a, const Candidate& b) { return Better(b, a); };
  std::make_heap(kept.begin(), kept.end(), worse);
  auto end = kept.end();
  for (double sum = 0; end != kept.begin() && (sum < top_p * all || top_p >= 1);) {
    std::pop_heap(kept.begin(), end, worse);
    sum += (--end)->weight;
  }
  kept.erase(kept.begin(), end);
  std::reverse(kept.begin(), kept.end());
  return kept;
}

int32_t DrawToken(absl::Span<float> logits, const SamplingParams& params, double u) {
  // Logits become weights relative to the best token's, which is 1.
  const float max = *std::max_element(logits.begin(), logits.end());
  if (max == kLowest) return -1;
  const float scale = static_cast<float>(1 / params.temperature);
  for (float& logit : logits) logit = std::exp((logit - max) * scale);

  const bool by_count = params.top_k > 0 && params.top_k < logits.size();
  if (params.min_p == 0 && !by_count && params.top_p >= 1) {
    double total = 0;
    for (const float weight : logits) total += weight;
    return static_cast<int32_t>(Draw(
        logits, [](float weight) { return weight; }, total, u));
  }
  std::vector<Candidate> kept;
  if (by_count) {
    kept = KeepTopK(logits, params.min_p, params.top_k);
    const double all = Sum(kept);
    double sum = 0;
    size_t count = 0;
    while (count < kept.size() && (sum < params.top_p * all || params.top_p >= 1))
      sum += kept[count++].weight;
    kept.resize(count);
  } else {
    kept = KeepTopP(logits, params.min_p, params.top_p);
  }
  return kept[Draw(
                  kept, [](const Candidate& c) { return c.weight; }, Sum(kept), u)]
      .id;
}

}  // namespace

SampledToken Sample(absl::Span<float> logits, const SamplingParams& params, absl::Span<const int32_t> prompt,
                    absl::Span<const int32_t> output, uint32_t sample_index,
                    absl::Span<const int32_t> eos_ids) {
  CHECK(!logits.empty());
  Sanitise(logits);
  std::vector<float> raw;
  if (params.logprobs) raw.assign(logits.begin(), logits.end());

  if (output.size() < params.min_tokens) {
    TakeOut(params.stop_token_ids, logits);
    if (!params.ignore_eos) TakeOut(eos_ids, logits);
  }
  Penalise(params, prompt, output, logits);

  SampledToken token;
  token.id = params.greedy() ? ArgMax(logits)
                             : DrawToken(logits, params,
                                         UniformAt(params.seed, sample_index, prompt.size() + output.size()));
  if (params.logprobs && token.id >= 0) {
    const double log_sum = LogSumExp(raw);
    token.logprob = static_cast<float>(raw[token.id] - log_sum);
    token.top = TopLogprobs(raw, log_sum, *params.logprobs);
  }
  return token;
}

}  // namespace lombard
