// A whole job in one process: n workers over the loopback transport, with the front door. For `--in-process`,
// tests and sanitizers.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/job/job.h"
#include "runtime/worker/worker.h"

namespace lombard {

// The router's view of a cluster with these pools: what each instance has, and what one request at home there
// can reach.
Router::Instance RouterInstance(const WorkerSettings& settings, uint32_t kv_blocks);
std::vector<Router::Instance> RouterInstances(const WorkerSettings& settings);
// What the front door may know of the instances' prefix caches by; nullopt: they keep none.
std::optional<PrefixSpace> CachedPrefixes(const WorkerSettings& settings, const Model& model);

class LocalCluster {
 public:
  // settings.kv_blocks says how many workers. Nothing is owned but what is made here.
  static absl::StatusOr<std::unique_ptr<LocalCluster>> Create(const WorkerSettings& settings,
                                                              const Model* model, const Tokenizer* tokenizer,
                                                              const Clock* clock);
  ~LocalCluster();

  Job& job() { return *job_; }
  Worker& worker(int rank) { return *workers_[rank]; }
  // After Job::End or a failure: joins every worker. The first error, if any.
  absl::Status Join();

 private:
  LocalCluster() = default;
  std::vector<std::unique_ptr<Transport>> transports_;
  std::unique_ptr<Job> job_;
  std::vector<std::unique_ptr<Worker>> workers_;
};

}  // namespace lombard
