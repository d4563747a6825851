// The Transport over UCX: between the processes of a job, over shared memory, tcp or RDMA as the profile
// says.
//
//   ASSIGN_OR_RETURN(auto transport, UcxTransport::Create(profile));
//   ... every rank tells every other its transport->address() (fabric/bootstrap.h) ...
//   RETURN_IF_ERROR(transport->Connect(rank, addresses));
//
// The progress thread makes the calls of UCX; a sender makes those for a small message itself when nobody is
// about to, which saves a wake-up at each end of an exchange. A message is copied twice: gathered into the
// transport's buffers, and appended to the received message; a device payload is not. Own credits bound what
// is under way to a peer, whether it reads or not (fabric/ucx/chunk.h). A peer that exits without a goodbye
// is reported within about 200 ms. One that hangs or is cut off is not reported: that takes heartbeats, which
// belong to the users of the transport. A broken connection is made again, with backoff
// (fabric/ucx/link.h).
//
// Close waits until every peer has read our goodbye. After it, or after the destructor, nothing more is sent;
// a destructor without Close looks like a crash to the others.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "fabric/make_transport.h"
#include "fabric/transport.h"
#include "fabric/ucx/profile.h"

namespace lombard {

class UcxTransport : public Transport {
 public:
  // Sets UCX_ environment variables that the user has not set: call it before threads exist that read the
  // environment.
  static absl::StatusOr<std::unique_ptr<UcxTransport>> Create(const UcxProfile& profile);

  virtual const std::string& address() const = 0;
  // addresses[i] is the address() of rank i, this one's included. kFailedPrecondition: a rank runs another
  // profile or version. REQUIRES: called once, before everything of Transport but the destructor.
  // Places up to `size_max` (at least the addresses) are kept for ranks that join later.
  virtual absl::Status Connect(int rank, const std::vector<std::string>& addresses, int size_max = 0) = 0;
  // Instead of Connect, in a job that runs: as `rank`, with the generation that rank 0 gave.
  virtual absl::Status Join(const FabricPlace& place) = 0;
  // Charged bytes that `peer` has not reported as read; at most the profile's window. Any thread.
  virtual uint64_t in_flight_bytes(int peer) const = 0;
};

}  // namespace lombard
