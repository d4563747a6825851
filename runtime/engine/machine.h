// What runs an engine's steps: the model's weights and the worker's KV, on CPUs (cpu_machine.h) or a GPU
// (gpu/gpu_machine.h).
//
// Belongs to the step thread.
#pragma once

#include "absl/status/statusor.h"
#include "runtime/engine/kv_mover.h"
#include "runtime/engine/step_work.h"

namespace lombard {

class Machine : public KvMover {
 public:
  // Errors: a creditor is gone or refuses (kUnavailable, kDeadlineExceeded, kNotFound, kFailedPrecondition);
  // the device's own.
  virtual absl::StatusOr<StepResult> Run(const StepWork& work) = 0;
};

}  // namespace lombard
