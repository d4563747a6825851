// `lombard generate --join`: a worker that joins a running job.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "fabric/bootstrap.h"
#include "runtime/cli/termination.h"
#include "runtime/config/options.h"

namespace lombard {

// Until the job ends or the worker has drained. `where`: rendezvous, key and protocol.
absl::Status RunJoiner(const WorkerOptions& options, const std::string& version,
                       const BootstrapOptions& where, Termination* termination);

}  // namespace lombard
