#include "fabric/ucx/job_address.h"

#include <ucp/api/ucp.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/check.h"
#include "base/status.h"
#include "fabric/process_watch.h"

namespace lombard {
namespace {

// First line of an address; the number grows with fabric/ucx/chunk.h.
constexpr char kFormat[] = "lombard fabric 2";

}  // namespace

std::string MakeJobAddress(const UcxProfile& profile, absl::string_view worker_address) {
  return absl::StrCat(kFormat, ", UCX ", ucp_get_version_string(), ", profile ", profile.name, ", chunks ",
                      profile.chunk_bytes, ", window ", profile.window_bytes, "\n", ProcessWatch::Self(),
                      "\n", worker_address);
}

absl::StatusOr<RankAddress> ReadJobAddress(int rank, const std::string& address, int own_rank,
                                           const std::string& own) {
  const std::vector<std::string> parts = absl::StrSplit(address, absl::MaxSplits('\n', 2));
  if (parts.size() != 3 || parts[2].empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("rank ", rank, " gave no fabric address (", address.size(), " bytes)"));
  }
  const std::string own_build = own.substr(0, own.find('\n'));
  if (parts[0] != own_build) {
    return absl::FailedPreconditionError(
        absl::StrCat("rank ", rank, " runs '", parts[0], "', rank ", own_rank, " runs '", own_build,
                     "': start all ranks with the same build and the same --ucx-profile"));
  }
  return RankAddress{parts[1], parts[2]};
}

absl::StatusOr<std::vector<RankAddress>> ReadJobAddresses(int rank,
                                                          const std::vector<std::string>& addresses) {
  CHECK(rank >= 0 && rank < static_cast<int>(addresses.size()));
  std::vector<RankAddress> out;
  for (size_t i = 0; i < addresses.size(); ++i) {
    ASSIGN_OR_RETURN(RankAddress read,
                     ReadJobAddress(static_cast<int>(i), addresses[i], rank, addresses[rank]));
    out.push_back(std::move(read));
  }
  return out;
}

uint32_t JobFingerprint(const std::vector<std::string>& addresses) {
  uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
  for (const std::string& address : addresses) {
    for (const unsigned char c : address) hash = (hash ^ c) * 0x100000001b3;
    hash = (hash ^ 0x100) * 0x100000001b3;  // where one address ends
  }
  return static_cast<uint32_t>(hash ^ (hash >> 32));
}

}  // namespace lombard
