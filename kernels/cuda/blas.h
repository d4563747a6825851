// Dense layers on a GPU by cuBLASLt, which is looked for at run time: programs start without it.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/cuda/matmul.h"

namespace lombard {

struct CublasLt;

// The product of kernels/cuda/matmul.h. One per stream, since it has one workspace; one caller at a time.
class GpuBlas {
 public:
  // Takes kWorkspaceBytes of device memory. kUnavailable: no cuBLASLt, or another version, with the remedy.
  // Whoever has none uses GpuMatmul.
  static absl::StatusOr<std::unique_ptr<GpuBlas>> Create(int device);
  static absl::StatusOr<std::unique_ptr<GpuBlas>> Create(int device, const CublasLt& library);  // tests
  virtual ~GpuBlas() = default;

  // Enqueues it. The algorithm is chosen once per shape, by cuBLASLt's heuristic, and kept; a shape for which
  // it has none runs by GpuMatmul.
  virtual absl::Status Matmul(GpuStreamRef stream, const GpuMatmulArgs& args) = 0;

  static constexpr uint64_t kWorkspaceBytes = 32 << 20;  // what NVIDIA advises for Hopper
};

}  // namespace lombard
