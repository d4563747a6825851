// From flags, cluster file, model and host to the settings of this job's workers.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "fabric/messages/work.pb.h"
#include "runtime/config/options.h"
#include "runtime/model/model_config.h"
#include "runtime/worker/worker.h"

namespace lombard {

// Where this process stands in the job.
struct RankPlace {
  int rank = 0, size = 1;              // with --in-process N: 0 of N
  int local_rank = 0, local_size = 1;  // on this host
};

// The cluster file of the flags, checked against the job's size, if that is not 0; empty without one.
absl::StatusOr<ClusterConfig> ResolveCluster(const WorkerOptions& options, int size);

// KV blocks of one rank: flag, cluster file, or what its GPU has for it (0: it has none), or half of the free
// memory divided by the ranks of the host.
absl::StatusOr<uint32_t> ResolveKvBlocks(const WorkerOptions& options, const ClusterConfig& cluster,
                                         const ModelConfig& model, const RankPlace& place, int rank,
                                         uint64_t gpu_kv_bytes = 0);

// Everything but the budgets of other ranks (kv_blocks holds what is known here: this rank's, or all of them
// in one process).
absl::StatusOr<WorkerSettings> ResolveSettings(const WorkerOptions& options, const ClusterConfig& cluster,
                                               const ModelConfig& model, const RankPlace& place);

// kFailedPrecondition naming the first rank and field that differ from rank 0's, or the first error a rank
// reported.
absl::Status CheckHellos(const std::vector<messages::Hello>& hellos);
// The same for a process that comes to join: by name, with both values and the remedy.
absl::Status CheckJoiner(const messages::Hello& joiner, const messages::Hello& rank_zero);

}  // namespace lombard
