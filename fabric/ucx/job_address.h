// What the ranks of a job tell each other before they connect: how UCX reaches them, and with which profile
// and version, as unequal ones would fail later with less clear words.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "fabric/ucx/profile.h"

namespace lombard {

// What a rank gives.
std::string MakeJobAddress(const UcxProfile& profile, absl::string_view worker_address);

struct RankAddress {
  std::string process;  // ProcessWatch::Self() there
  std::string worker;   // for UCX
};
// What another rank gave. kInvalidArgument: not made by MakeJobAddress. kFailedPrecondition: it differs from
// `own` in format, profile or UCX version; `rank` and `own_rank` are for the words.
absl::StatusOr<RankAddress> ReadJobAddress(int rank, const std::string& address, int own_rank,
                                           const std::string& own);
// By rank. kInvalidArgument: not made by MakeJobAddress. kFailedPrecondition: a rank differs from `rank` in
// format, profile or UCX version.
absl::StatusOr<std::vector<RankAddress>> ReadJobAddresses(int rank,
                                                          const std::vector<std::string>& addresses);
// The same at every rank, different for every job.
uint32_t JobFingerprint(const std::vector<std::string>& addresses);

}  // namespace lombard
