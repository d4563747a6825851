#include "runtime/cli/device_choice.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace lombard {
namespace {

bool KvIsGiven(const WorkerOptions& options, const ClusterConfig& cluster, const RankPlace& place) {
  if (!options.kv.tokens.empty() || !options.kv.bytes.empty()) return true;
  const size_t end = place.rank + std::max<size_t>(1, options.in_process);
  for (size_t rank = place.rank; rank < end; ++rank) {
    if (rank >= cluster.instances.size()) return false;
    if (!cluster.instances[rank].kv_tokens.has_value() && !cluster.instances[rank].kv_bytes.has_value())
      return false;
  }
  return true;
}

}  // namespace

absl::StatusOr<DeviceChoice> ChooseDevice(const WorkerOptions& options, const ClusterConfig& cluster,
                                          const RankPlace& place, absl::FunctionRef<GpuSearch()> find_gpus) {
  DeviceWish wish = options.device.value_or(DeviceWish::kCpu);
  std::string who = "--device cuda";
  if (!options.device.has_value() && place.rank < cluster.instances.size()) {
    wish = cluster.instances[place.rank].device == DeviceKind::kCuda ? DeviceWish::kCuda : DeviceWish::kCpu;
    who = absl::StrCat(options.cluster_file, ": instance ", place.rank, " wants device: cuda");
  }
  if (wish == DeviceWish::kCpu) return DeviceChoice{};
  const GpuSearch found = find_gpus();
  const int count = static_cast<int>(found.gpus.size());
  if (count == 0) {
    if (wish == DeviceWish::kCuda) {
      return absl::FailedPreconditionError(
          absl::StrCat(who, ", but ", found.reason, "; or use --device cpu"));
    }
    return DeviceChoice{.remark = absl::StrCat("computing on the CPU: ", found.reason)};
  }
  const int turn = place.local_rank % count;
  return DeviceChoice{.gpu = found.gpus[turn].device,
                      .sharers = (place.local_size - turn + count - 1) / count,
                      .kv_given = KvIsGiven(options, cluster, place)};
}

}  // namespace lombard
