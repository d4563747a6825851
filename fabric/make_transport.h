// From a bootstrap to a connected fabric.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "fabric/bootstrap.h"
#include "fabric/transport.h"

namespace lombard {

struct UcxOptions {
  std::string profile;  // --ucx-profile; empty: what suits this host (fabric/ucx/profile.h)
  absl::Duration deadline = absl::Seconds(60);  // for the exchange of addresses
  int size_max = 0;                             // places, where ranks may join later; 0: none may
  bool only_this_host = true;                   // whoever joins later is on the host of rank 0
};

// What a process that joins a running job must know of the others.
struct FabricPlace {
  struct Member {
    int rank = 0;
    uint64_t generation = 0;  // of its process; grows from one process of a rank to the next
    std::string address;      // Fabric::address there
  };
  int rank = 0, size_max = 1;
  uint64_t generation = 0;
  uint32_t job = 0;  // Fabric::job
  std::vector<Member> members;
};
constexpr uint64_t kFirstGeneration = 1;  // of ranks that start together

struct Fabric {
  std::unique_ptr<Transport> transport;
  uint32_t job = 0;                    // the same at every rank, different for every job
  std::vector<std::string> addresses;  // by rank; empty with the loopback transport
};

// Collective over all ranks. A job of one rank that nobody joins gets the loopback transport. kUnimplemented:
// built without UCX. Otherwise errors as of Bootstrap::AllGather and UcxTransport. To be called before
// threads exist that read the environment.
absl::StatusOr<Fabric> MakeUcxTransport(Bootstrap& bootstrap, const UcxOptions& options);

// For a process that joins a running job, in two steps: its address comes before its place.
class JoiningFabric {
 public:
  virtual ~JoiningFabric() = default;
  virtual const std::string& address() const = 0;
  virtual absl::StatusOr<std::unique_ptr<Transport>> Join(const FabricPlace& place) = 0;  // once
};
absl::StatusOr<std::unique_ptr<JoiningFabric>> MakeJoiningFabric(const std::string& profile,
                                                                 bool single_host);

}  // namespace lombard
