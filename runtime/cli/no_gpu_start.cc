#include "runtime/cli/gpu_start.h"

namespace lombard {

absl::Status StartOnGpu(const WorkerOptions&, const DeviceChoice&, const Model&, bool,
                        std::vector<std::string>*, WorkerSettings*, uint64_t*) {
  return absl::UnimplementedError("built without CUDA kernels (LOMBARD_CUDA); use --device cpu");
}

}  // namespace lombard
