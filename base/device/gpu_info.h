// Which GPUs this process may use, asked once at the start.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace lombard {

struct GpuInfo {
  int device = 0;    // the runtime's index, which CUDA_VISIBLE_DEVICES shapes
  std::string name;  // "NVIDIA H200"
  int compute_major = 0, compute_minor = 0;
  uint64_t memory_bytes = 0;
  int multiprocessors = 0;
  uint32_t shared_bytes_max = 0;  // that one block may ask for
  uint64_t l2_bytes = 0;
  std::string pci;       // "0000:1b:00.0"
  bool dma_buf = false;  // the driver exports its memory to other devices as dma-buf
  bool on_host = false;  // its memory is the host's: the emulated device
};

// Compute capability times ten: 80, 90.
inline int ComputeCapability(const GpuInfo& gpu) { return gpu.compute_major * 10 + gpu.compute_minor; }
constexpr int kComputeCapabilityMin = 80;  // cp.async, bf16 on the tensor cores

// Never fails: a host without a usable GPU is an ordinary host. The GPUs come in the runtime's order.
struct GpuSearch {
  std::vector<GpuInfo> gpus;
  std::string reason;   // why there is none, or why some were left out, with the remedy; empty otherwise
  bool broken = false;  // a driver is there, but does not work: worth a warning
};
GpuSearch FindGpus();

}  // namespace lombard
