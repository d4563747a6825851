#include "runtime/cli/gpu_start.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "runtime/cli/nccl_start.h"
#include "runtime/engine/gpu/gpu_setup.h"

namespace lombard {

absl::Status StartOnGpu(const WorkerOptions& options, const DeviceChoice& choice, const Model& model,
                        bool lends, std::vector<std::string>* remarks, WorkerSettings* settings,
                        uint64_t* kv_bytes) {
  const int rows = static_cast<int>(options.max_batch_tokens);
  ASSIGN_OR_RETURN(GpuSetup setup,
                   SetUpGpu(model, {.device = *choice.gpu,
                                    .workers = std::max(1, static_cast<int>(options.in_process)),
                                    .sharers = choice.sharers,
                                    .utilization = options.gpu_memory_utilization,
                                    .rows_max = rows,
                                    .logits_max = std::min(rows, static_cast<int>(options.max_batch_size)),
                                    .block_tokens = static_cast<int>(options.block_tokens),
                                    .kv_given = choice.kv_given,
                                    .cuda_graphs = options.cuda_graphs}));
  remarks->push_back(setup.text);
  if (!setup.remark.empty())
    remarks->push_back(absl::StrCat("our own kernels do all products, slowly: ", setup.remark));
  if (lends && options.gpu_exchange) {
    NcclStart nccl = StartNccl(*choice.gpu);
    setup.compute_options.exchange_end = std::move(nccl.exchange_end);
    remarks->push_back(std::move(nccl.text));
  }
  *kv_bytes = setup.kv_bytes;
  settings->compute = setup.MakeFactory();
  return absl::OkStatus();
}

}  // namespace lombard
