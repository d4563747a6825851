// What a rank does before it works, whether it starts with the others or joins them.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "runtime/cli/job_setup.h"
#include "runtime/config/options.h"
#include "runtime/model/tokenizer/tokenizer.h"
#include "runtime/model/weights.h"

namespace lombard {

struct Loaded {
  std::unique_ptr<Model> model;
  std::unique_ptr<Tokenizer> tokenizer;
};
absl::StatusOr<Loaded> LoadModelAndTokenizer(const WorkerOptions& options);

// Puts this process's ranks where they compute. *kv_bytes: what a GPU has for each; 0: they stay on the CPUs.
absl::Status PlaceOnDevice(const WorkerOptions& options, const ClusterConfig& cluster, const RankPlace& place,
                           const Model& model, WorkerSettings* settings, uint64_t* kv_bytes);

}  // namespace lombard
