// Bytes from GPU to GPU, enqueued into streams: query rows and attention states of loans between ranks that
// each have a GPU of their own. The one backend is NCCL (fabric/nccl); everything else goes over Transport.
//
// One communicator per ordered pair (debtor, creditor), of few thread blocks, so that serving a loan takes
// little from the creditor's own step.
//
// Order. A transfer occupies the GPU at both ends until both have come to it, and a GPU may run one such
// transfer at a time. Ranks that submit transfers in different orders can wait for each other for ever.
// Therefore:
//
//   1. A rank takes part in one exchange at a time (fabric/exchange_lane.h). An exchange is one step of one
//      debtor with one or several creditors. The debtor asks before its step; a rank that is in an exchange,
//      or asks for one itself, says no at once. Nobody waits for another's exchange to end.
//   2. Inside an exchange transfers are submitted in the order of (layer, query before state, creditor): the
//      debtor those of all creditors, a creditor its own.
//   3. Who says yes sends the answer, then submits its whole part at once; the debtor submits its part when
//      the last answer is in, or its time is over. A promise is kept: dropped rows travel too. (In this
//      order: NCCL connects two ranks with their first transfer in each direction, and accepts it only when
//      the other end has submitted its own, so an answer that waited for that would never come.)
//   4. A rank's exchange ends when the events behind its part have passed, or its communicators were aborted.
//
// Why nobody waits for ever: by 1 and 4 all transfers that wait at a rank are of one exchange. Of those of an
// exchange that are not done, take the first in the order of 2. Both ends have submitted it, or will without
// waiting (3); all before it are done, so it is next at both ends; kernels before it wait for nothing but
// transfers before it. So it gets done, and by induction all do. How many transfers a GPU runs at once does
// not matter.
//
//   A and B lend to each other, or a ring of three does: who asks while another asks or exchanges is told no.
//   That step's exchange goes over Transport, where nothing depends on order.
//   A collective of all ranks is an exchange whose starter asks all other members; they submit when it says
//   that all have said yes, and are let go when one has said no. It is tried again later.
//
// What goes over Transport: two ranks on one GPU, which NCCL refuses; a creditor that has said no; a pair
// whose communicator is not open yet, or was aborted.
//
// A dead peer: NCCL knows of some (Poll), the transport of others, and the caller of an exchange that does
// not end in its time; both then Close the pair. That aborts the communicator: transfers that wait in a
// stream end with rubbish in their buffers, and the stream goes on. The pair may be opened again with a new
// key.
#pragma once

#include <compare>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/device/gpu_error.h"

namespace lombard {

struct LoanPair {
  int debtor = 0, creditor = 0;  // ranks of the job
  auto operator<=>(const LoanPair&) const = default;
};

// Which chip a rank computes on.
struct GpuPlace {
  std::string host, pci;
  bool operator==(const GpuPlace&) const = default;
};

// Any thread, but the transfers of one pair are of one thread at a time. No call waits for a peer beyond a
// stated time; Close ends the wait of others for the pair.
class Collectives {
 public:
  virtual ~Collectives() = default;  // aborts what is open

  // What both ends must hold to find each other, at most 128 bytes; the debtor draws it and sends it over the
  // control channel. One per Open.
  virtual absl::StatusOr<std::string> NewKey() = 0;
  // Begins to connect with the other end, which does the same with the same key; Poll goes on with it.
  // kFailedPrecondition: both ranks are on one GPU. kAlreadyExists. kInvalidArgument: no such key.
  virtual absl::Status Open(LoanPair pair, absl::string_view key, const GpuPlace& other, absl::Time now) = 0;
  // May be used now.
  virtual bool IsOpen(LoanPair pair) const = 0;

  // Puts a transfer of device memory into the stream; from the debtor to the creditor or back follows from
  // which end this rank is. The memory must stay until the stream has passed. kUnavailable: the pair is not
  // open, or has just been closed.
  virtual absl::Status Send(LoanPair pair, const void* data, uint64_t bytes, GpuStreamRef stream) = 0;
  virtual absl::Status Receive(LoanPair pair, void* data, uint64_t bytes, GpuStreamRef stream) = 0;

  struct Closed {
    LoanPair pair;
    absl::Status why;  // kUnavailable, kDeadlineExceeded: could not be opened in time
  };
  // Connects, and looks for errors. Pairs that were closed in it, each once.
  virtual std::vector<Closed> Poll(absl::Time now) = 0;
  // Begins to abort the pair's communicator, if there is one; never waits.
  virtual void Close(LoanPair pair) = 0;
};

}  // namespace lombard
