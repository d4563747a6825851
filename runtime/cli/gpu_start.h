// Moves a rank to a GPU. Built without CUDA, nobody asks for it.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "runtime/cli/device_choice.h"
#include "runtime/model/weights.h"

namespace lombard {

// Loads the weights there, sizes *kv_bytes, sets settings->compute, and tells people in *remarks what takes
// how much memory. kResourceExhausted: no room; kUnimplemented: a shape that our kernels lack.
// lends: to other processes, or from them.
absl::Status StartOnGpu(const WorkerOptions& options, const DeviceChoice& choice, const Model& model,
                        bool lends, std::vector<std::string>* remarks, WorkerSettings* settings,
                        uint64_t* kv_bytes);

}  // namespace lombard
