// Whether network devices reach a GPU's memory on this host (GPUDirect RDMA), as far as can be seen without
// trying.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace lombard {

struct GpuDirectHost {
  std::string ucx_version;              // for people
  bool ucx_moves_cuda = false;          // built with CUDA, and the driver loads
  bool ucx_knows_dma_buf = false;       // from 1.14 on
  bool gpu_gives_dma_buf = false;       // DeviceSlots::dma_buf
  bool has_peer_memory_module = false;  // HasPeerMemoryModule
};

// One of NVIDIA's kernel modules that register a GPU's memory with network devices is loaded. `root`: of the
// file system, for tests.
bool HasPeerMemoryModule(const std::string& root = "");

// kFailedPrecondition: what is missing. `insist`: a way that is not seen may be there all the same.
absl::Status CheckGpuDirect(const GpuDirectHost& host, bool insist);

}  // namespace lombard
