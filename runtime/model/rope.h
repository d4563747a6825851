// Rotary position embedding: the inverse frequencies of a checkpoint, with its context extension applied.
//
// Position p rotates the pair (x[i], x[i + head_dim/2]) of a query or key head by the angle p * inv_freq[i];
// both cosine and sine are multiplied by attention_factor. Without scaling inv_freq[i] = theta^(-2i /
// head_dim) (Su et al. 2021).
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "runtime/model/json_file.h"

namespace lombard {

struct RopeParameters {
  std::vector<double> inv_freq;  // [head_dim / 2], radians per position, scaling applied
  float attention_factor = 1;    // multiplies cos and sin; differs from 1 only for yarn
};

// From config.json: `rope_parameters` (new), or `rope_theta` and `rope_scaling` with `rope_type` or the older
// `type`. Supported: default, linear, llama3, yarn. kUnimplemented, by name, for every other kind.
absl::StatusOr<RopeParameters> ReadRope(const JsonFields& config, int head_dim, int max_position_embeddings);

}  // namespace lombard
