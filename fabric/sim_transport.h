// A network that exists only in memory and in simulated time: for tests of what happens on slow, cut and
// dying connections.
//
//   SimNetwork network({.size = 3, .seed = seed});
//   network.transport(0).Send(1, {...});
//   while (network.Step()) {                                   // time moves to the next arrival
//     for (int i = 0; i < 3; ++i) network.transport(i).Poll(handlers[i], absl::ZeroDuration());
//   }
//
// Same calls, same seed: same arrivals at the same times. Poll never waits, as time moves by Step and Advance
// alone. Each ordered pair of ranks is a link: messages leave one after the other at its bandwidth, take its
// latency and a random part of its jitter, and never overtake each other. A cut link holds what is under way
// until it is healed, like a connection that retransmits; nobody is told, as nobody would be. Everything is
// thread-safe, so that code with threads of its own can be tested as well, though no longer
// deterministically.
#pragma once

#include <deque>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <vector>

#include "base/clock.h"
#include "fabric/transport.h"

namespace lombard {

struct SimLink {
  absl::Duration latency = absl::Microseconds(50);
  absl::Duration jitter = absl::ZeroDuration();  // each message takes up to this longer, by chance
  double bytes_per_s = std::numeric_limits<double>::infinity();
};

struct SimOptions {
  int size = 2;
  uint64_t seed = 1;
  SimLink link;  // of every pair at first
  absl::Time start = absl::UnixEpoch();
  // From the death of a process to the news at its peers, beyond the latency of their links.
  absl::Duration death_report = absl::Milliseconds(1);
};

class SimNetwork final : public Clock {
 public:
  explicit SimNetwork(const SimOptions& options);
  ~SimNetwork() override;

  Transport& transport(int rank);
  absl::Time Now() const override;

  // Moves time to the next arrival and puts what arrives then where Poll finds it. False: nothing is under
  // way but behind cuts.
  bool Step();
  // Moves time to `time`, taking all arrivals on the way.
  void AdvanceTo(absl::Time time);
  void Advance(absl::Duration by) { AdvanceTo(Now() + by); }
  // Of the next Step; infinite future when there is none.
  absl::Time NextArrival() const;

  void SetLink(int from, int to, const SimLink& link);  // for what is sent from now on
  void Cut(int from, int to);                           // one way
  void CutBoth(int a, int b);
  void Isolate(int rank);  // all its links, both ways
  void Heal(int from, int to);
  void HealAll();
  // The process is gone: of what it sent, what has not arrived arrives up to a random point. Its peers get
  // OnPeerDown, over their links.
  void Kill(int rank);
  // The connection between two living ranks breaks: both get OnPeerDown, and messages under way between them
  // are lost.
  void Break(int a, int b);

 private:
  friend class SimTransport;
  struct Item {  // a message; or, without one, the news that `from` is down
    std::optional<Message> message;
    absl::Status why;
    absl::Time arrival;
  };
  struct Link {
    SimLink model;
    bool cut = false;
    bool ended = false;  // the receiver has been told that the sender is down
    absl::Time free_at;  // when the last message has left
    absl::Time last_arrival;
    uint64_t queued_bytes = 0;
    std::deque<Item> under_way;
  };
  struct Worker {
    std::unique_ptr<Transport> transport;
    std::deque<std::pair<int, Item>> inbox;
    bool closed = false;
  };

  Link& At(int from, int to) { return links_[from * size_ + to]; }
  absl::Time NextArrivalLocked() const;
  void ArriveLocked(absl::Time now);
  void PutLocked(int from, int to, Item item, absl::Duration extra);
  void HealLocked(Link& link);
  absl::Status Send(int from, int to, Message message);
  void Poll(int rank, TransportHandler& handler);
  void Leave(int rank, const absl::Status& why, absl::Duration delay);

  const SimOptions options_;
  const int size_;
  mutable std::mutex mutex_;
  absl::Time now_;
  std::mt19937_64 random_;
  std::vector<Link> links_;
  std::vector<Worker> workers_;
};

}  // namespace lombard
