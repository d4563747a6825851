#include "fabric/ucx/gpu_direct.h"

#include <filesystem>

#include "absl/strings/str_cat.h"

namespace lombard {

bool HasPeerMemoryModule(const std::string& root) {
  // Its name has changed with drivers and kernels.
  for (const char* file : {"/sys/module/nvidia_peermem/version", "/sys/module/nv_peer_mem/version",
                           "/sys/kernel/mm/memory_peers/nv_mem/version"}) {
    std::error_code error;
    if (std::filesystem::exists(root + file, error)) return true;
  }
  return false;
}

absl::Status CheckGpuDirect(const GpuDirectHost& host, bool insist) {
  if (!host.ucx_moves_cuda) {
    return absl::FailedPreconditionError(absl::StrCat(
        "UCX ", host.ucx_version, " does not move a GPU's memory: it was built without CUDA, or ",
        "its CUDA modules do not load"));
  }
  const bool by_dma_buf = host.ucx_knows_dma_buf && host.gpu_gives_dma_buf;
  if (by_dma_buf || host.has_peer_memory_module || insist) return absl::OkStatus();
  return absl::FailedPreconditionError(
      "neither the kernel module nvidia_peermem nor dma-buf is there, by which network devices reach a GPU's "
      "memory");
}

}  // namespace lombard
