// How one request wants its tokens chosen and when it stops. Names, meanings and ranges follow the OpenAI
// completions API and its common extensions (vLLM's names), so that a line of a batch file and an HTTP body
// mean the same.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace lombard {

constexpr int kSampleCountMax = 128;       // of `n`
constexpr int kTopLogprobsMax = 20;        // of `logprobs`
constexpr int kStopStringsMax = 64;        // of `stop`
constexpr int kStopStringBytesMax = 4096;  // of one stop string

// A plain value; the defaults are those of `lombard generate`: the API's, except that temperature is 0, so
// that a run without sampling flags is greedy and can be repeated. (The API's own default temperature is 1; a
// server sets it.)
struct SamplingParams {
  uint32_t max_tokens = 16;  // generated tokens at most, stop token included; >= 1
  uint32_t min_tokens =
      0;  // below this many, eos and stop ids cannot be sampled and stop strings do not stop; <= max_tokens

  double temperature = 0;  // [0, 100]; 0 (below kGreedyTemperature): the highest logit, ties to the lowest id
  int32_t top_k = 0;       // keep the k best; 0 or -1: all
  double top_p = 1;        // (0, 1]: keep the smallest best set with this much probability
  double min_p = 0;        // [0, 1]: keep what has at least this share of the best one's probability
  uint64_t seed = 0;       // random numbers are a pure function of (seed, sample index, position)

  double repetition_penalty =
      1;  // > 0; over prompt and output tokens: logit / penalty when positive, * penalty when not
  double presence_penalty = 0;   // [-2, 2]; over output tokens: once per distinct token
  double frequency_penalty = 0;  // [-2, 2]; over output tokens: once per occurrence

  std::optional<int> logprobs;  // set: report the chosen token's log-probability and the `logprobs` best
                                // ones, [0, kTopLogprobsMax]

  std::vector<std::string> stop;        // the text ends before the first of these to appear
  std::vector<int32_t> stop_token_ids;  // beside the model's own eos ids
  bool ignore_eos = false;          // the model's own eos ids do not stop; stop_token_ids and stop still do
  bool skip_special_tokens = true;  // leave special tokens out of the text

  int n = 1;  // samples of the same prompt, [1, kSampleCountMax]

  bool greedy() const { return temperature < kGreedyTemperature; }
  static constexpr double kGreedyTemperature = 1e-5;

  // kInvalidArgument naming the first bad field, its value and its range. Whether ids are in the vocabulary
  // is the caller's to check.
  absl::Status Validate() const;

  bool operator==(const SamplingParams&) const = default;
};

}  // namespace lombard
