#include "fabric/ucx/job_address.h"

#include <ucp/api/ucp.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/check.h"
#include "fabric/process_watch.h"

namespace lombard {
namespace {

// First line of an address; the number grows with fabric/ucx/chunk.h.
constexpr char kFormat[] = "lombard fabric 1";

}  // namespace

std::string MakeJobAddress(const UcxProfile& profile, absl::string_view worker_address) {
  return absl::StrCat(kFormat, ", UCX ", ucp_get_version_string(), ", profile ", profile.name, ", chunks ",
                      profile.chunk_bytes, ", window ", profile.window_bytes, "\n", ProcessWatch::Self(),
                      "\n", worker_address);
}

absl::StatusOr<std::vector<RankAddress>> ReadJobAddresses(int rank,
                                                          const std::vector<std::string>& addresses) {
  CHECK(rank >= 0 && rank < static_cast<int>(addresses.size()));
  std::vector<RankAddress> out;
  const std::string own = addresses[rank].substr(0, addresses[rank].find('\n'));
  for (size_t i = 0; i < addresses.size(); ++i) {
    const std::vector<std::string> parts = absl::StrSplit(addresses[i], absl::MaxSplits('\n', 2));
    if (parts.size() != 3 || parts[2].empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("rank ", i, " gave no fabric address (", addresses[i].size(), " bytes)"));
    }
    if (parts[0] != own) {
      return absl::FailedPreconditionError(
          absl::StrCat("rank ", i, " runs '", parts[0], "', rank ", rank, " runs '", own,
                       "': start all ranks with the same build and the same --ucx-profile"));
    }
    out.push_back({parts[1], parts[2]});
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
