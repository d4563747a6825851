// The start of a worker on a GPU: weights there, a step of the largest size run once, and what is then left
// is the KV budget.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "runtime/engine/gpu/gpu_compute.h"

namespace lombard {

struct GpuSetupOptions {
  int device = 0;
  int workers = 1;           // of this process, on one copy of the weights
  int sharers = 1;           // processes that use this GPU
  double utilization = 0.9;  // share of what is free of it that this process may fill, with the others
  int rows_max = 0;          // query rows of a step
  int logits_max = 0;        // of these, sampled from
  int block_tokens = 0;
  bool kv_given = false;    // somebody has said how much KV: no room for more is no error
  bool cuda_graphs = true;  // decode steps are launched as graphs
};

struct GpuSetup {
  std::shared_ptr<const GpuModel> model;
  GpuComputeOptions compute_options;
  KvLayout layout;
  uint64_t kv_bytes = 0;  // what each worker may take
  std::string remark;     // GpuMachine::remark
  std::string text;       // for people: where the memory went

  uint32_t kv_blocks() const;
  MakeCompute MakeFactory() const;
};

// kResourceExhausted: weights and a step leave no room for KV, with the figures. Other processes may start on
// the same GPU meanwhile.
absl::StatusOr<GpuSetup> SetUpGpu(const Model& model, const GpuSetupOptions& options);

}  // namespace lombard
