// Runs sequences on an in-process cluster and gives back everything that can be looked at.
#pragma once

#include <string>
#include <vector>

#include "runtime/job/local_cluster.h"

namespace lombard {

struct TestSequence {
  std::vector<int32_t> prompt;
  SamplingParams sampling;
  std::optional<InstanceId> home = {};
  std::string cache_salt = {};
  int wave = 0;  // submitted when all of the waves before have ended
};

struct ClusterRun {
  std::vector<SequenceResult> results;            // in the order of the sequences
  std::vector<messages::WorkerReport> reports;    // by rank
  std::vector<RemoteService::Counters> services;  // by rank
  std::vector<GpuExchanger::Counters> exchanges;  // by rank; zeros where no GPU exchanges
  GManager::Counters manager;
  absl::Status invariants;  // of every worker, after the end
};

// Greedy, never stopped by an eos.
SamplingParams Greedy(uint32_t max_tokens);

// Settings for tests: NaN in free blocks, everything lendable, base batch limits.
WorkerSettings TestSettings(const Model& model, std::vector<uint32_t> kv_blocks, uint32_t block_tokens);

// The error is the job's failure.
absl::StatusOr<ClusterRun> RunOnCluster(const WorkerSettings& settings, const Model& model,
                                        const Tokenizer& tokenizer,
                                        const std::vector<TestSequence>& sequences);

// tests/data or ../shared: the path below the source tree.
std::string TestPath(absl::string_view below_root);

}  // namespace lombard
