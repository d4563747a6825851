#include "runtime/cli/gpu_start.h"

#include <algorithm>
#include <cstdio>

#include "base/status.h"
#include "runtime/cli/nccl_start.h"
#include "runtime/engine/gpu/gpu_setup.h"

namespace lombard {

absl::Status StartOnGpu(const WorkerOptions& options, const DeviceChoice& choice, const Model& model,
                        bool lends, bool speaks, WorkerSettings* settings, uint64_t* kv_bytes) {
  const int rows = static_cast<int>(options.max_batch_tokens);
  ASSIGN_OR_RETURN(GpuSetup setup,
                   SetUpGpu(model, {.device = *choice.gpu,
                                    .workers = std::max(1, static_cast<int>(options.in_process)),
                                    .sharers = choice.sharers,
                                    .utilization = options.gpu_memory_utilization,
                                    .rows_max = rows,
                                    .logits_max = std::min(rows, static_cast<int>(options.max_batch_size)),
                                    .block_tokens = static_cast<int>(options.block_tokens),
                                    .cuda_graphs = options.cuda_graphs}));
  if (speaks) {
    std::fprintf(stderr, "%s\n", setup.text.c_str());
    if (!setup.remark.empty())
      std::fprintf(stderr, "our own kernels do all products, slowly: %s\n", setup.remark.c_str());
  }
  if (lends && options.gpu_exchange) {
    NcclStart nccl = StartNccl(*choice.gpu);
    setup.compute_options.exchange_end = std::move(nccl.exchange_end);
    if (speaks) std::fprintf(stderr, "%s\n", nccl.text.c_str());
  }
  *kv_bytes = setup.kv_bytes;
  settings->compute = setup.MakeFactory();
  return absl::OkStatus();
}

}  // namespace lombard
