// What `lombard model inspect` prints.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace lombard {

// A text of a dozen lines: architecture, shape, context, weights in parameters and bytes, KV bytes per token,
// stop ids, fingerprint. Loads the model, so every error of Model::Load applies.
absl::StatusOr<std::string> InspectModel(const std::string& model_dir);

}  // namespace lombard
