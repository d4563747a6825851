// The words with which a process comes to rank 0's port, before it is let in. A state machine for each side:
// frames in, frames out; sockets are elsewhere (fabric/tcp_frames.h).
//
//   guest -> host  greeting: format, "start" or "join", job, who, protocol version, id of its key, nonce
//   host -> guest  challenge: nonce, proof of (guest's nonce, its own); or a refusal
//   guest -> host  hello: rank, size, host key, proof of (host's nonce, its own, the rest)
//   host -> guest  a reply (PackEntries, PackRefusal)
// All texts are lines. So each side knows that the other has the key before it tells or is told anything, and
// the key is never sent. A frame that is none of these is of a stranger, who is turned away without a word.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "fabric/cluster_key.h"

namespace lombard {

constexpr size_t kReceptionFrameBytesMax = 4096;

struct GuestHello {
  bool joins = false;  // a running job; then rank and size say nothing
  int rank = -1, size = -1;
  std::string host_key, who;
};

// What both sides must agree on.
struct ReceptionRules {
  ClusterKey key;
  uint32_t protocol = 0;
  std::string job;    // of who starts
  std::string place;  // host:port, for the words
};

class Host {  // of one guest
 public:
  Host(const ReceptionRules* rules, std::string nonce) : rules_(rules), nonce_(std::move(nonce)) {}
  struct Step {
    std::string reply;             // to be sent, when not empty
    bool done = false;             // the guest is turned away
    absl::Status refusal;          // why, in words for both sides; OK for a stranger
    std::optional<GuestHello> in;  // the guest is in, and waits for an answer
  };
  Step OnFrame(absl::string_view frame);

 private:
  Step Refuse(absl::Status why) const;
  Step Greet(absl::string_view frame);

  const ReceptionRules* rules_;
  const std::string nonce_;
  bool greeted_ = false;
  GuestHello hello_;
  std::string guest_nonce_;
};

class Guest {
 public:
  Guest(const ReceptionRules* rules, GuestHello hello, std::string nonce)
      : rules_(rules), hello_(std::move(hello)), nonce_(std::move(nonce)) {}
  std::string Greeting() const;
  // The hello, or the host's refusal. kPermissionDenied: the host has not proven that it has the key.
  absl::StatusOr<std::string> OnChallenge(absl::string_view frame) const;

 private:
  const ReceptionRules* rules_;
  const GuestHello hello_;
  const std::string nonce_;
};

std::string PackEntries(const std::vector<std::string>& entries);
std::string PackRefusal(const absl::Status& status);
// The entries, or the refusal. kDataLoss: makes no sense. `count`: how many there must be, or -1.
absl::StatusOr<std::vector<std::string>> UnpackReply(absl::string_view reply, int count);

}  // namespace lombard
