// Draws a report.json for a terminal: each rank's KV pool, what it lent, what it borrowed, and the job's
// figures.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace lombard {

// `columns`: width of the widest bar. kInvalidArgument: not JSON, or a field of the contract is missing.
absl::StatusOr<std::string> DrawReport(absl::string_view report_json, int columns = 48);

}  // namespace lombard
