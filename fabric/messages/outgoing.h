// What the managers hand to whoever owns the transport.
#pragma once

#include <utility>
#include <vector>

#include "fabric/messages/control.pb.h"

namespace lombard {

struct Outgoing {
  int to = 0;  // rank
  messages::ControlMessage message;
};

// Rank 0 runs a worker and the global manager; the body says whose message it is. False for engine bodies
// too.
inline bool ForGlobalManager(const messages::ControlMessage& message) {
  return message.has_heartbeat() || message.has_move_kv_done() || message.has_ping() || message.has_left();
}

// Messages of one manager, each stamped with its process' incarnation.
class Outbox {
 public:
  explicit Outbox(uint64_t incarnation) : incarnation_(incarnation) {}
  void set_incarnation(uint64_t incarnation) { incarnation_ = incarnation; }  // of later messages
  // The reference is good until the next call.
  messages::ControlMessage& Add(int to) {
    Outgoing& out = messages_.emplace_back();
    out.to = to;
    out.message.set_incarnation(incarnation_);
    return out.message;
  }
  std::vector<Outgoing> Take() { return std::exchange(messages_, {}); }

 private:
  uint64_t incarnation_;
  std::vector<Outgoing> messages_;
};

}  // namespace lombard
