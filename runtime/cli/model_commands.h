// `lombard model ...`.
#pragma once

#include <optional>
#include <ostream>

#include "absl/status/status.h"
#include "runtime/config/options.h"

namespace lombard {

// The exit request (code 2) when the command line names no preset there is; nullopt when it may run.
std::optional<ExitRequest> CheckModelCreate(const ModelCreateOptions& options);

// Writes the model directory and says what it holds on `out`.
absl::Status RunModelCreate(const ModelCreateOptions& options, std::ostream& out);

absl::Status RunModelInspect(const ModelInspectOptions& options, std::ostream& out);

// Standard input -> JSON array of token ids on `out`; every byte counts, no special tokens are added.
absl::Status RunModelTokenize(const ModelTokenizeOptions& options, std::ostream& out);

}  // namespace lombard
