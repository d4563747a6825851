#include "fabric/ucx/profile.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <ucp/api/ucp.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "base/units.h"

namespace lombard {
namespace {

constexpr char kTcp[] = "tcp";
constexpr char kTcpShm[] = "tcp+shm";
constexpr char kRendezvous[] = "rendezvous";

// One interface for tcp: given several, UCX 1.13 stripes small messages over all of them, loopback included,
// at six times the latency. That of the default route; without one, the only other interface that is up.
std::string ChooseInterface() {
  std::ifstream routes("/proc/net/route");
  std::string line;
  std::getline(routes, line);  // titles
  while (std::getline(routes, line)) {
    std::istringstream fields(line);
    std::string interface, destination;
    if (fields >> interface >> destination && destination == "00000000") return interface;
  }
  std::string found;
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) return "";
  for (const ifaddrs* i = list; i != nullptr; i = i->ifa_next) {
    const bool usable = i->ifa_addr != nullptr && i->ifa_addr->sa_family == AF_INET &&
                        (i->ifa_flags & IFF_UP) != 0 && (i->ifa_flags & IFF_LOOPBACK) == 0;
    if (!usable || found == i->ifa_name) continue;
    if (!found.empty()) {
      found.clear();  // several: not ours to say
      break;
    }
    found = i->ifa_name;
  }
  freeifaddrs(list);
  return found;
}

UcxProfile EagerOnly(const UcxHost& host, absl::string_view name) {
  UcxProfile profile;
  profile.name = std::string(name);
  profile.chunk_bytes = 256 << 10;
  profile.window_bytes = 4 << 20;
  profile.config = {{"TLS", name == kTcp ? "self,tcp" : "self,posix,sysv,tcp"},
                    {"RNDV_THRESH", "inf"},
                    {"ZCOPY_THRESH", "inf"},
                    {"MM_ERROR_HANDLING", "y"},  // else endpoints with error handling refuse shared memory
                    {"KEEPALIVE_INTERVAL",
                     "200ms"}};  // how a dead peer in shared memory is found; tcp reports it in 1 to 2 ms
  const std::string interface = host.single_host ? "lo" : host.net_interface;
  if (!interface.empty()) profile.config.push_back({"NET_DEVICES", interface});
  profile.environment = {{"UCX_TCP_KEEPIDLE", "1s"},  // whole seconds; less is ignored
                         {"UCX_TCP_KEEPINTVL", "1s"},    {"UCX_TCP_KEEPCNT", "3"},
                         {"UCX_TCP_TX_SEG_SIZE", "64k"}, {"UCX_TCP_RX_SEG_SIZE", "128k"},
                         {"UCX_TCP_CM_REUSEADDR", "y"}};
  return profile;
}

UcxProfile Rendezvous() {
  UcxProfile profile;
  profile.name = kRendezvous;
  profile.chunk_bytes = 4 << 20;
  profile.window_bytes = 32 << 20;
  profile.eager_only = false;
  profile.config = {{"MM_ERROR_HANDLING", "y"}, {"KEEPALIVE_INTERVAL", "200ms"}};
  return profile;
}

}  // namespace

std::string UcxProfile::ToString() const {
  std::string out =
      absl::StrCat(name, " (", eager_only ? "eager active messages" : "rendezvous allowed", ", chunks of ",
                   FormatBytes(chunk_bytes), ", window ", FormatBytes(window_bytes), " per peer");
  for (const auto& [key, value] : config) absl::StrAppend(&out, ", ", key, "=", value);
  return out + ")";
}

UcxHost InspectUcxHost(bool single_host) {
  UcxHost host;
  unsigned major = 0, minor = 0, release = 0;
  ucp_get_version(&major, &minor, &release);
  host.version_major = static_cast<int>(major);
  host.version_minor = static_cast<int>(minor);
  std::error_code error;
  const std::filesystem::directory_iterator devices("/sys/class/infiniband", error);
  host.has_rdma = !error && devices != std::filesystem::directory_iterator();
  host.single_host = single_host;
  host.net_interface = ChooseInterface();
  return host;
}

absl::StatusOr<UcxProfile> ChooseUcxProfile(const UcxHost& host, absl::string_view name) {
  const bool modern = std::pair(host.version_major, host.version_minor) >= std::pair(1, 15);
  if (name.empty()) name = modern && host.has_rdma ? kRendezvous : kTcp;
  if (name == kTcp || name == kTcpShm) return EagerOnly(host, name);
  if (name == kRendezvous) return Rendezvous();
  return absl::InvalidArgumentError(absl::StrCat("UCX profile '", name, "' is unknown; there are ", kTcp,
                                                 ", ", kTcpShm, " and ", kRendezvous));
}

}  // namespace lombard
