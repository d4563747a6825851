// From logits to tokens on a GPU, a block per row: what runtime/engine/sampler.h does, in its order, with
// its ties. A plain greedy row, penalties, temperature, min_p, top_k, top_p and log-probabilities.
//
// Against the CPU's results, rounding is all that differs: a weight exp((logit - max) / temperature) is
// counted in units of 2^-40, in integers, so sums depend on no order; one that is smaller is never drawn. So
// another token comes out only where the random number falls within about 1e-6 (exp's error, times the
// temperature's) of a boundary, or where two weights differ by as little at the edge of a cut.
#pragma once

#include <cstdint>

#include "base/device/gpu_error.h"

namespace lombard {

// A token whose logit is changed before anything but log-probabilities. Each id once per row.
struct GpuLogitChange {
  int32_t id = 0;
  float subtract = 0;    // infinity: cannot be chosen
  int32_t repeated = 0;  // 1: the row's repetition penalty applies first
  float before = 0;      // the kernel writes here what the logit was
};

// What becomes of one row of logits.
struct GpuSampleRow {
  double uniform = 0;             // in [0, 1)
  double top_p = 1, min_p = 0;    // as SamplingParams
  float inverse_temperature = 0;  // 0: greedy
  float repetition_penalty = 1;
  int32_t top_k = 0;                         // 0: all
  int32_t change_begin = 0, change_end = 0;  // in the list of changes
  int32_t logprobs = -1;  // -1: none; else of the chosen token and of so many best, all before the changes
};

constexpr int kGpuTopLogprobsMax = 20;
struct GpuSampledToken {
  int32_t id = -1;  // -1: no finite logit was left
  float logprob = 0;
  int32_t top_ids[kGpuTopLogprobsMax];  // best first; only what was asked for is written, -1 behind the last
  float top_logprobs[kGpuTopLogprobsMax];
};

// Device memory. The logits are scratch: their content is lost.
struct GpuSampleArgs {
  float* logits = nullptr;  // [rows, vocabulary]
  const GpuSampleRow* rows = nullptr;
  GpuLogitChange* changes = nullptr;
  GpuSampledToken* tokens = nullptr;  // [rows]
  int row_count = 0, vocabulary = 0;
};
GpuError GpuSample(GpuStreamRef stream, const GpuSampleArgs& args);

}  // namespace lombard
