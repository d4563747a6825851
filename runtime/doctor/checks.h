// The checks, each appending its findings. They never fail: what cannot be read is itself a finding.
#pragma once

#include "absl/status/status.h"
#include "base/device/gpu_info.h"
#include "runtime/doctor/finding.h"
#include "runtime/doctor/host.h"

namespace lombard::doctor {

void CheckCores(const Host& host, Findings& findings);    // count, affinity, quota, instruction sets
void CheckMemory(const Host& host, Findings& findings);   // free, cgroup limit, huge pages, /dev/shm
void CheckLimits(Findings& findings);                     // memlock, nofile, stack
void CheckGpus(Findings& findings);                       // NVIDIA driver and devices
void CheckMpi(Findings& findings);                        // library, mpirun, the variables root needs
void CheckUcx(const Host& host, Findings& findings);      // version, transports, UCX_* variables
void CheckNetwork(const Host& host, Findings& findings);  // interfaces, unroutable ones named
void CheckSlurm(Findings& findings);                      // allocation, tools
void CheckClock(const Host& host, Findings& findings);    // source, cost of reading it

// Pure parts, for tests. `soft` in bytes or files; kUnlimited for none.
constexpr uint64_t kUnlimited = UINT64_MAX;
Finding JudgeFiles(uint64_t soft, uint64_t hard);
Finding JudgeStack(uint64_t soft);
Finding JudgeLockedMemory(uint64_t soft, bool has_rdma);
Finding JudgeMemory(uint64_t free_bytes, uint64_t total_bytes);
Finding JudgeSharedMemory(uint64_t free_bytes);
Finding JudgeRootVariables(bool is_root, bool allow, bool confirm);
Finding JudgeGpus(const GpuSearch& found, bool has_tool);  // nvidia-smi
Finding JudgeNccl(const absl::Status& loaded);             // where GPUs are
Finding JudgeTransports(const std::vector<std::string>& resources);

struct Interface {
  std::string name;
  std::string address;  // first IPv4 address
  bool loopback = false;
};
Findings JudgeInterfaces(const std::vector<Interface>& interfaces);

}  // namespace lombard::doctor
