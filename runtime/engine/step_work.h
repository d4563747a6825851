// A step as a value: what the engine decided, and what came of it.
//
//   const StepWork* work = engine.Begin(now);
//   if (work != nullptr) engine.Finish(machine.Run(*work), now);
//
// Whoever runs it writes no KV but that of plan.new_kv and the loan slots that `sends` name.
#pragma once

#include <cstdint>
#include <vector>

#include "base/ids.h"
#include "distattn/kv_transfer.h"
#include "distattn/plan.h"

namespace lombard {

// T rows, those of plan.sequences one after the other.
struct StepInput {
  std::vector<int32_t> tokens;      // [T]
  std::vector<int32_t> positions;   // [T]
  std::vector<int32_t> logit_rows;  // which of the T rows need logits, increasing
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
  std::vector<float> logits;  // [input.logit_rows, vocab_size]
  bool remote = false;        // some attention ran elsewhere
  AttentionTiming attention;
  uint64_t keys_read = 0;  // here, of one layer
  double seconds = 0;
};

}  // namespace lombard
