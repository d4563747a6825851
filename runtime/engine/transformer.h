// The decoder-only transformer of Llama, Mistral and Qwen: every layer's dense part. Attention is a function
// given by the caller.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "kernels/cpu_context.h"
#include "runtime/engine/step_work.h"
#include "runtime/model/weights.h"

namespace lombard {

// q [T, q_heads, head_dim] and k, v [T, kv_heads, head_dim] after norms and RoPE; fills out [T, q_heads,
// head_dim]. q may be changed.
using AttendFunction =
    absl::FunctionRef<absl::Status(int layer, float* q, const float* k, const float* v, float* out)>;

// Activations are fp32; with bf16 weights every product rounds its input to bf16 once (see kernels/matmul.h).
// One caller at a time; keeps its scratch between steps.
class Transformer {
 public:
  // `model` is not owned and outlives this.
  Transformer(const Model* model, const CpuContext& context) : model_(model), context_(context) {}

  // logits [logit_rows, vocab_size]. Errors are attend's alone.
  absl::Status Forward(const StepInput& input, AttendFunction attend, std::vector<float>* logits);

 private:
  const Model* const model_;
  const CpuContext context_;
  std::vector<float> x_, normed_, q_, k_, v_, attended_, gate_, up_;
};

}  // namespace lombard
