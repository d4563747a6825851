// The network between simulated processes. Messages of an ordered pair arrive in order while their connection
// stands; connections can be cut (what is under way waits, nobody is told), broken (it is lost, both sides
// are told) and end with a process. Copies of a message may arrive later, in any order.
#pragma once

#include <deque>
#include <functional>
#include <vector>

#include "runtime/sim/event_queue.h"
#include "runtime/sim/payload.h"
#include "runtime/sim/random.h"

namespace lombard::sim {

class Network {
 public:
  struct Options {
    int size = 2;
    absl::Duration delay_min = absl::Microseconds(50), delay_max = absl::Milliseconds(2);
    double slow = 0.01;                          // share of messages that take ten times as long
    double duplicate = 0;                        // share of messages that arrive twice
    absl::Duration copy_max = absl::Seconds(1);  // later, for the copy
  };
  struct Handlers {
    std::function<void(int from, int to, const Payload&)> deliver;
    std::function<void(int at, int peer)> down;
  };
  Network(const Options& options, EventQueue* events, SimRandom* random, Handlers handlers);

  void Send(int from, int to, Payload payload);
  void Cut(int from, int to) { At(from, to).cut = true; }
  void Heal(int from, int to);
  void HealAll();
  void Break(int a, int b);
  // The process at `rank` is gone: what it sent may or may not arrive, what it was sent is lost.
  void End(int rank);
  void SetDelay(int from, int to, absl::Duration max) { At(from, to).delay_max = max; }

 private:
  struct Item {
    absl::Time arrival;
    Payload payload;
  };
  struct Link {
    bool cut = false;
    uint64_t connection = 0;
    absl::Duration delay_max;
    absl::Time last_arrival = absl::InfinitePast();
    std::deque<Item> under_way;
  };
  Link& At(int from, int to) { return links_[static_cast<size_t>(from * options_.size + to)]; }
  void Pump(int from, int to);
  void Drop(int from, int to);
  void TellDown(int at, int peer);

  const Options options_;
  EventQueue* const events_;
  SimRandom* const random_;
  const Handlers handlers_;
  std::vector<Link> links_;
};

}  // namespace lombard::sim
