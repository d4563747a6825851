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
  // Errors: a creditor is gone or refuses (kUnavailable, kDeadlineExceeded, kNotFound, kFailedPrecondition):
  // the step may run again, elsewhere or later; or this machine is broken.
  virtual absl::StatusOr<StepResult> Run(const StepWork& work) = 0;
  // Not OK: no step will run here any more, and why.
  virtual absl::Status broken() const { return absl::OkStatus(); }
};

}  // namespace lombard
