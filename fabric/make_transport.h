// From a bootstrap to a connected fabric.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "fabric/bootstrap.h"
#include "fabric/transport.h"

namespace lombard {

struct UcxOptions {
  std::string profile;  // --ucx-profile; empty: what suits this host (fabric/ucx/profile.h)
  absl::Duration deadline = absl::Seconds(60);  // for the exchange of addresses
};

// Collective over all ranks. A job of one rank gets the loopback transport. kUnimplemented: built without
// UCX. Otherwise errors as of Bootstrap::AllGather and UcxTransport. To be called before threads exist that
// read the environment.
absl::StatusOr<std::unique_ptr<Transport>> MakeUcxTransport(Bootstrap& bootstrap, const UcxOptions& options);

}  // namespace lombard
