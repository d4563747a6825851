// A transport profile: how UCX is used on this host. UCX 1.13 over tcp and shared memory aborts the survivor
// when a peer dies with rendezvous, zero-copy or RMA operations in flight; eager active messages in bounded
// windows survived every run. Shared memory has a second flaw: all ranks of a host write into one queue of
// the reader, and a writer killed between taking a slot and filling it stops that queue for all others, for
// good. Hence three profiles: "tcp", the default, survives deaths; "tcp+shm" is faster between two ranks of a
// host, and there a killed rank may cost its neighbours too; "rendezvous" lets UCX choose, for RDMA devices
// and UCX from 1.15 on.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace lombard {

struct UcxProfile {
  std::string name;
  size_t chunk_bytes = 0;   // data of one active message
  size_t window_bytes = 0;  // charged bytes in flight towards one peer
  bool eager_only = true;
  // UCP settings, without the prefix UCX_; given to this transport alone. What the user set in the
  // environment wins.
  std::vector<std::pair<std::string, std::string>> config;
  // Settings that UCX takes from the environment only, with prefix; set there where the user has not.
  std::vector<std::pair<std::string, std::string>> environment;

  std::string ToString() const;
};

// What the choice depends on.
struct UcxHost {
  int version_major = 0, version_minor = 0;
  bool has_rdma = false;
  bool single_host = false;   // all ranks of the job share this host
  std::string net_interface;  // for tcp between hosts; empty: let UCX choose
};

// From UCX's own version, /sys/class/infiniband and the routing table.
UcxHost InspectUcxHost(bool single_host);
// The profile for this host; by name when `name` is not empty. kInvalidArgument: no such profile (the names
// are listed).
absl::StatusOr<UcxProfile> ChooseUcxProfile(const UcxHost& host, absl::string_view name = "");

}  // namespace lombard
