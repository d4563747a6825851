// A step as a value: what the engine decided, and what came of it.
//
//   const StepWork* work = engine.Begin(now);
//   if (work != nullptr) engine.Finish(machine.Run(*work), now);
//
// Whoever runs it writes no KV but that of plan.new_kv and the loan slots that `sends` name.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/types/span.h"
#include "base/ids.h"
#include "distattn/kv_transfer.h"
#include "distattn/plan.h"
#include "runtime/engine/sampler.h"

namespace lombard {

// What Sample takes of a row besides its logits. Views into the engine's sequences.
struct RowSampling {
  const SamplingParams* params = nullptr;
  absl::Span<const int32_t> prompt, output;
  uint32_t sample_index = 0;
};

// T rows, those of plan.sequences one after the other.
struct StepInput {
  std::vector<int32_t> tokens;        // [T]
  std::vector<int32_t> positions;     // [T]
  std::vector<int32_t> logit_rows;    // which of the T rows are sampled from, increasing
  std::vector<RowSampling> sampling;  // [logit_rows], valid until Finish; for machines that sample themselves
};

struct StepWork {
  uint64_t step = 0;  // grows; abandoned ones count
  StepInput input;
  AttentionPlan plan;
  std::vector<RequestId> requests;  // of plan.sequences
  // Blocks that are full once this step's KV is stored. They may leave layer by layer, or later, but their
  // bytes are taken before Finish. A failure shows in the transfer and does not fail the step.
  std::vector<KvSend> sends;
};

struct StepResult {
  // [logit_rows], or empty: none. A machine may leave any row to the engine, which then gets its logits.
  std::vector<std::optional<SampledToken>> sampled;
  std::vector<float> logits;  // [logit_rows that were not sampled, vocab_size]
  bool remote = false;        // some attention ran elsewhere
  AttentionTiming attention;
  uint64_t keys_read = 0;  // here, of one layer
  double seconds = 0;
};

}  // namespace lombard
