// The logits of every position of a prompt, with its KV spread over several stores: the oldest full blocks of
// each chunk are shipped to creditors over the loopback transport, and their attention comes back from there.
// No engine, no manager: the data path alone.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "kernels/cpu_context.h"
#include "runtime/model/weights.h"

namespace lombard {

struct SplitForwardOptions {
  int block_tokens = 8;
  int chunk_tokens = 16;       // prefill chunk
  int local_blocks = 1000000;  // full blocks that stay at home; older ones leave
  int creditors = 0;           // lent runs go to them in turn
  int blocks_per_loan = 4;
  bool compact_states = false;
  CpuContext context;
};

// [prompt, vocab]. Free and lent-away blocks hold NaN.
absl::StatusOr<std::vector<float>> SplitForward(const Model& model, const std::vector<int32_t>& prompt,
                                                const SplitForwardOptions& options);

}  // namespace lombard
