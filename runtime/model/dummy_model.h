// A model of which only the shape is real: benchmarks measure shapes, and whoever has no checkpoint of one
// needs none.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "runtime/model/weights.h"

namespace lombard {

// Reads config.json alone. Matrices have no data (null): who computes makes some up (a GPU does); norms are
// ones, biases zeros. The model has no checkpoint(). Errors are LoadModelConfig's.
absl::StatusOr<std::unique_ptr<Model>> MakeDummyModel(const std::string& model_dir);

}  // namespace lombard
