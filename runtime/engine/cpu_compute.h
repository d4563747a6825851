// A worker's CPUs.
#pragma once

#include "kernels/cpu_context.h"
#include "runtime/engine/compute.h"

namespace lombard {

// `threads`: of the step thread's loops; `service_threads`: of the service thread's. kResourceExhausted: no
// room for the KV.
absl::StatusOr<std::unique_ptr<Compute>> MakeCpuCompute(const Model* model, const KvLayout& layout,
                                                        uint32_t blocks, Isa isa, int threads,
                                                        int service_threads);

}  // namespace lombard
