// What a creditor did not do, in an exchange of a step or a transfer of KV.
#pragma once

#include <optional>

#include "absl/status/status.h"
#include "base/ids.h"

namespace lombard {

struct RemoteFailure {
  int creditor = 0;            // rank
  std::optional<LoanId> loan;  // it answers, but holds no such loan of this epoch; not set: gone or silent
  absl::Status status;
};

}  // namespace lombard
