#include "runtime/cli/rank_start.h"

#include <cstdio>
#include <string>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "runtime/cli/device_choice.h"
#include "runtime/cli/gpu_start.h"
#include "runtime/model/dummy_model.h"

namespace lombard {

absl::StatusOr<Loaded> LoadModelAndTokenizer(const WorkerOptions& options) {
  Loaded loaded;
  ASSIGN_OR_RETURN(loaded.model, options.dummy_weights ? MakeDummyModel(options.model_dir)
                                                       : Model::Load(options.model_dir));
  ASSIGN_OR_RETURN(loaded.tokenizer, Tokenizer::Load(options.model_dir));
  return loaded;
}

absl::Status PlaceOnDevice(const WorkerOptions& options, const ClusterConfig& cluster, const RankPlace& place,
                           const Model& model, WorkerSettings* settings, uint64_t* kv_bytes) {
  ASSIGN_OR_RETURN(DeviceChoice choice, ChooseDevice(options, cluster, place, FindGpus));
  if (options.in_process > 0) choice.sharers = 1;  // one process
  std::vector<std::string> remarks;
  if (!choice.remark.empty()) remarks.push_back(choice.remark);
  const auto speak = absl::MakeCleanup([&] {                                 // also of a start that fails
    if (!options.verbose && place.local_rank != 0 && !options.join) return;  // each host says it once
    const std::string who =
        place.size > 1 && options.in_process == 0 ? absl::StrCat("rank ", place.rank, ": ") : "";
    for (const std::string& remark : remarks) fprintf(stderr, "%s%s\n", who.c_str(), remark.c_str());
  });
  if (!choice.gpu.has_value() && options.dummy_weights) {
    return absl::FailedPreconditionError(
        "--load-format dummy makes weights on a GPU: use it with --device cuda, or `lombard model create`");
  }
  if (!choice.gpu.has_value()) return absl::OkStatus();
  const bool others = place.size > 1 || options.join || options.size_max > 1;
  return StartOnGpu(options, choice, model, options.in_process == 0 && others && settings->engine.lending,
                    &remarks, settings, kv_bytes);
}

}  // namespace lombard
