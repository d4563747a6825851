// Which device a rank computes on: the flag, then the cluster file, then its CPUs.
#pragma once

#include <optional>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "base/device/gpu_info.h"
#include "runtime/cli/job_setup.h"
#include "runtime/config/cluster_file.h"
#include "runtime/config/options.h"

namespace lombard {

struct DeviceChoice {
  std::optional<int> gpu;  // unset: the CPUs
  int sharers = 1;         // ranks of this host that use that GPU
  bool kv_given = false;   // by flags or cluster file, for all workers of this process there
  std::string remark;      // worth a line on standard error; empty: nothing
};

// Ranks take the host's GPUs in turn, by local rank. `find_gpus` is called, and a driver loaded, only where a
// GPU is wished for. kFailedPrecondition: a GPU was demanded and there is none, with the reason.
absl::StatusOr<DeviceChoice> ChooseDevice(const WorkerOptions& options, const ClusterConfig& cluster,
                                          const RankPlace& place, absl::FunctionRef<GpuSearch()> find_gpus);

}  // namespace lombard
