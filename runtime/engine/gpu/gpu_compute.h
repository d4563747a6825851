// A worker's GPU.
#pragma once

#include <functional>
#include <memory>

#include "runtime/engine/compute.h"
#include "runtime/engine/gpu/gpu_model.h"
#include "runtime/engine/gpu/gpu_step_graphs.h"

namespace lombard {

// What a rank's GPU exchanges with others by; empty: all its loans go over the transport.
using MakeGpuExchangeEnd = std::function<GpuExchangeEnd(int rank, const Clock* clock)>;

struct GpuComputeOptions {
  // Memory for steps of this size is taken at the start.
  int rows_max = 0;                   // query rows of a step
  int logits_max = 0;                 // of these, sampled from
  size_t graphs_max = kGpuGraphsMax;  // GpuMachine's
  MakeGpuExchangeEnd exchange_end;
};

// KV and the machine on the model's device. kResourceExhausted: no room for the KV.
absl::StatusOr<std::unique_ptr<Compute>> MakeGpuCompute(std::shared_ptr<const GpuModel> model,
                                                        const GpuComputeOptions& options,
                                                        const KvLayout& layout, uint32_t blocks);

}  // namespace lombard
