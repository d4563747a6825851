#include "runtime/cli/rank_start.h"

#include <cstdio>

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
  if (!choice.remark.empty() && (place.rank == 0 || options.join))
    fprintf(stderr, "%s\n", choice.remark.c_str());
  if (!choice.gpu.has_value() && options.dummy_weights) {
    return absl::FailedPreconditionError(
        "--load-format dummy makes weights on a GPU: use it with --device cuda, or `lombard model create`");
  }
  if (!choice.gpu.has_value()) return absl::OkStatus();
  const bool others = place.size > 1 || options.join || options.size_max > 1;
  return StartOnGpu(options, choice, model, options.in_process == 0 && others && settings->engine.lending,
                    options.verbose || place.rank == 0, settings, kv_bytes);
}

}  // namespace lombard
