// `lombard generate`.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "runtime/config/options.h"

namespace lombard {

struct RunOutcome {
  absl::Status status;
  // Ranks of MPI were lost, or the job has failed: do not finalize MPI; flush and end by _exit.
  bool must_exit_hard = false;
  bool speaks = true;    // this rank prints the error
  bool launched = true;  // launch/run waits for it; not for who joins
};

// Runs this process's part of the job. Errors are the whole job's: every rank returns one. Ranks of different
// `version` do not work together.
RunOutcome RunGenerate(const GenerateOptions& options, const std::string& version);

}  // namespace lombard
