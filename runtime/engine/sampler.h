// From one row of logits to one token. A pure function: same arguments, same token, on every machine and in
// any thread.
//
// In this order:
//   1. log-probabilities are those of the model's own distribution, before anything below
//   2. below min_tokens, stop ids (and eos ids unless ignore_eos) are taken out
//   3. repetition penalty over the distinct tokens of prompt and output, then frequency and presence
//   penalties over the output
//   4. greedy: the highest logit. Otherwise temperature, min_p, top_k, top_p, each over what the one before
//   left, and one draw
// Ties go to the lowest id everywhere. A NaN counts as -inf, +inf as the largest float.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "runtime/engine/sampling_params.h"

namespace lombard {

struct SampledToken {
  int32_t id = -1;    // -1: no finite logit was left; the request cannot go on
  float logprob = 0;  // natural logarithm; 0 unless params.logprobs is set
  std::vector<std::pair<int32_t, float>>
      top;  // the params.logprobs best, best first; fewer when the vocabulary is smaller
};

// `logits` [vocabulary], fp32: scratch, its content is lost. `prompt` and `output` are all tokens before the
// one to be chosen; the random number belongs to the position prompt.size() + output.size(). `sample_index`:
// which of params.n. `eos_ids`: the model's own. REQUIRES: logits not empty, params valid; ids of prompt and
// output inside the vocabulary when there are penalties. Allocates a few vocabularies' worth when there are
// penalties, log-probabilities or truncation; nothing for plain greedy.
SampledToken Sample(absl::Span<float> logits, const SamplingParams& params, absl::Span<const int32_t> prompt,
                    absl::Span<const int32_t> output, uint32_t sample_index,
                    absl::Span<const int32_t> eos_ids);

}  // namespace lombard
