#include "runtime/cli/job_setup.h"

#include <sched.h>

#include <algorithm>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "base/status.h"
#include "base/units.h"

namespace lombard {
namespace {

// Bytes the kernel says can be had without swapping.
absl::StatusOr<uint64_t> AvailableMemory() {
  std::ifstream meminfo("/proc/meminfo");
  for (std::string line; std::getline(meminfo, line);) {
    uint64_t kib;
    std::vector<std::string> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
    if (words.size() >= 2 && words[0] == "MemAvailable:" && absl::SimpleAtoi(words[1], &kib))
      return kib * 1024;
  }
  return absl::NotFoundError("/proc/meminfo does not tell MemAvailable; give --kv-tokens or --kv-bytes");
}

int UsableCores() {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof(set), &set) == 0 ? std::max(1, CPU_COUNT(&set)) : 1;
}

// One value for all, or one per rank.
absl::StatusOr<uint64_t> ForRank(const std::vector<uint64_t>& values, int rank, int size,
                                 absl::string_view flag) {
  if (values.size() == 1) return values[0];
  if (values.size() != static_cast<size_t>(size)) {
    return absl::InvalidArgumentError(absl::StrCat(flag, " lists ", values.size(), " values, the job has ",
                                                   size, " ranks: give one value, or one for each rank"));
  }
  return values[rank];
}

// The first field in which two ranks of one job may not differ, with both values and the remedy.
absl::Status CheckSameJob(const messages::Hello& theirs, const messages::Hello& rank_zero) {
  const auto compare = [](absl::string_view field, const auto& a, const auto& b, absl::string_view remedy) {
    if (a == b) return absl::OkStatus();
    return absl::FailedPreconditionError(absl::StrCat(field, " ", a, ", rank 0 has ", b, ": ", remedy));
  };
  const absl::string_view same_model = "give --model the same files on all ranks";
  RETURN_IF_ERROR(
      compare("version", theirs.version(), rank_zero.version(), "use the same build on all ranks"));
  RETURN_IF_ERROR(
      compare("model fingerprint", theirs.model_fingerprint(), rank_zero.model_fingerprint(), same_model));
  RETURN_IF_ERROR(compare("KV dtype", theirs.kv_dtype(), rank_zero.kv_dtype(), same_model));
  return compare("block size", theirs.block_tokens(), rank_zero.block_tokens(),
                 "give all ranks the same --block-tokens");
}

}  // namespace

absl::StatusOr<ClusterConfig> ResolveCluster(const WorkerOptions& options, int size) {
  if (options.cluster_file.empty()) return ClusterConfig{};
  ASSIGN_OR_RETURN(ClusterConfig cluster, ReadClusterFile(options.cluster_file));
  for (size_t i = 0; i < cluster.instances.size(); ++i) {
    if (cluster.instances[i].ranks != 1) {
      return absl::InvalidArgumentError(absl::StrCat(options.cluster_file, ": instance ", i,
                                                     " wants ranks: ", cluster.instances[i].ranks,
                                                     "; this version runs one rank per instance"));
    }
  }
  if (size > 0 && !cluster.instances.empty() && cluster.RankCount() != static_cast<uint32_t>(size)) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.cluster_file, " lists ", cluster.RankCount(), " ranks, the job has ", size));
  }
  return cluster;
}

absl::StatusOr<uint32_t> ResolveKvBlocks(const WorkerOptions& options, const ClusterConfig& cluster,
                                         const ModelConfig& model, const RankPlace& place, int rank,
                                         uint64_t gpu_kv_bytes) {
  const uint64_t token_bytes = static_cast<uint64_t>(model.KvBytesPerToken(model.dtype));
  uint64_t tokens = 0;
  if (!options.kv.tokens.empty()) {
    ASSIGN_OR_RETURN(tokens, ForRank(options.kv.tokens, rank, place.size, "--kv-tokens"));
  } else if (!options.kv.bytes.empty()) {
    ASSIGN_OR_RETURN(const uint64_t bytes, ForRank(options.kv.bytes, rank, place.size, "--kv-bytes"));
    tokens = bytes / token_bytes;
  } else if (rank < cluster.instances.size() && cluster.instances[rank].kv_tokens.has_value()) {
    tokens = *cluster.instances[rank].kv_tokens;
  } else if (rank < cluster.instances.size() && cluster.instances[rank].kv_bytes.has_value()) {
    tokens = *cluster.instances[rank].kv_bytes / token_bytes;
  } else if (gpu_kv_bytes > 0) {
    tokens = gpu_kv_bytes / token_bytes;
  } else {
    ASSIGN_OR_RETURN(const uint64_t available, AvailableMemory());
    tokens = available / 2 / place.local_size / token_bytes;
  }
  const uint64_t blocks = tokens / options.block_tokens;
  if (blocks < 1) {
    return absl::InvalidArgumentError(absl::StrCat("rank ", rank, " has a KV budget of ", tokens,
                                                   " tokens, a block has ", options.block_tokens,
                                                   ": raise --kv-tokens or lower --block-tokens"));
  }
  return static_cast<uint32_t>(std::min<uint64_t>(blocks, UINT32_MAX));
}

absl::StatusOr<WorkerSettings> ResolveSettings(const WorkerOptions& options, const ClusterConfig& cluster,
                                               const ModelConfig& model, const RankPlace& place) {
  WorkerSettings settings;
  const Policy policy = options.policy.value_or(cluster.lending.policy);
  if (policy == Policy::kStatic || policy == Policy::kLombard) {
    return absl::InvalidArgumentError(
        absl::StrCat("policy '", PolicyName(policy), "' is not in this version; it knows none and greedy"));
  }
  settings.isa = DetectIsa();
  if (!options.isa.empty()) {
    ASSIGN_OR_RETURN(settings.isa, ParseIsa(options.isa));
  }
  settings.threads = std::max(1, UsableCores() / place.local_size);
  if (options.threads.has_value()) {
    settings.threads = static_cast<int>(*options.threads);
  } else if (place.rank < cluster.instances.size() && cluster.instances[place.rank].threads.has_value()) {
    settings.threads = static_cast<int>(*cluster.instances[place.rank].threads);
  }
  settings.service_threads = settings.threads;
  settings.engine.block_tokens = options.block_tokens;
  settings.engine.max_batch_tokens = options.max_batch_tokens;
  settings.engine.max_batch_size = options.max_batch_size;
  settings.engine.prefix_cache = options.prefix_cache;
  settings.engine.decode_move_tokens = cluster.lending.decode_move_tokens;
  settings.engine.lending = policy != Policy::kNone;
  settings.engine.max_model_len =
      options.max_model_len.value_or(static_cast<uint32_t>(model.max_position_embeddings));
  settings.reserve = cluster.lending.reserve;
  settings.lent_max = cluster.lending.lent_max;
  settings.guard = cluster.lending.guard;
  settings.gpu_direct = options.gpu_direct;
  settings.heartbeat = options.heartbeat;
  settings.dead_after = options.dead_after;
  settings.gmanager.instances = place.size;
  settings.gmanager.plan.block_tokens = options.block_tokens;
  settings.gmanager.plan_period = cluster.lending.plan_period;
  settings.gmanager.plan.policy = policy == Policy::kNone ? PlanPolicy::kNone : PlanPolicy::kGreedy;
  return settings;
}

absl::Status CheckHellos(const std::vector<messages::Hello>& hellos) {
  for (size_t rank = 0; rank < hellos.size(); ++rank) {
    if (!hellos[rank].error().empty()) {
      return absl::FailedPreconditionError(hellos.size() == 1
                                               ? hellos[rank].error()
                                               : absl::StrCat("rank ", rank, ": ", hellos[rank].error()));
    }
  }
  for (size_t rank = 1; rank < hellos.size(); ++rank) {
    absl::Status same = CheckSameJob(hellos[rank], hellos[0]);
    if (same.ok() && hellos[rank].size_max() != hellos[0].size_max()) {
      same =
          absl::FailedPreconditionError(absl::StrCat("--size-max ", hellos[rank].size_max(), ", rank 0 has ",
                                                     hellos[0].size_max(), ": give all ranks the same"));
    }
    if (!same.ok()) {
      return absl::FailedPreconditionError(
          absl::StrCat("rank ", rank, " on ", hellos[rank].host(), " has ", same.message()));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckJoiner(const messages::Hello& joiner, const messages::Hello& rank_zero) {
  if (joiner.kv_blocks() == 0) return absl::InvalidArgumentError("a worker without KV memory");
  const absl::Status same = CheckSameJob(joiner, rank_zero);
  if (same.ok()) return same;
  return absl::FailedPreconditionError(absl::StrCat("this worker has ", same.message()));
}

}  // namespace lombard
