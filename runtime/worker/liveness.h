// Who has been heard of lately. Rank 0 watches everyone, everyone watches rank 0. A state machine: time is an
// argument.
#pragma once

#include <optional>
#include <vector>

#include "absl/time/time.h"

namespace lombard {

class Liveness {
 public:
  Liveness(int rank, int size, absl::Duration ping_period, absl::Duration dead_after)
      : rank_(rank),
        ping_period_(ping_period),
        dead_after_(dead_after),
        last_heard_(size, absl::InfiniteFuture()) {}

  void Start(absl::Time now) { std::fill(last_heard_.begin(), last_heard_.end(), now); }
  void Heard(int peer, absl::Time now) { last_heard_[peer] = now; }

  // The ranks to ping now; at most once per period.
  std::vector<int> PingsDue(absl::Time now) {
    std::vector<int> due;
    if (now < next_ping_) return due;
    next_ping_ = now + ping_period_;
    ForWatched([&](int peer) { due.push_back(peer); });
    return due;
  }
  // A watched rank that has been silent for too long, if any. Silence of this process itself (it was stopped,
  // or its machine slept) is not held against the others: a gap between two calls starts their time anew.
  std::optional<int> Silent(absl::Time now) {
    if (now - last_call_ > dead_after_ / 2) Start(now);
    last_call_ = now;
    std::optional<int> silent;
    ForWatched([&](int peer) {
      if (now - last_heard_[peer] > dead_after_) silent = peer;
    });
    return silent;
  }
  absl::Duration dead_after() const { return dead_after_; }

 private:
  template <typename F>
  void ForWatched(F&& f) {
    for (int peer = 0; peer < static_cast<int>(last_heard_.size()); ++peer) {
      if (peer != rank_ && (rank_ == 0 || peer == 0)) f(peer);
    }
  }
  int rank_;
  absl::Duration ping_period_, dead_after_;
  std::vector<absl::Time> last_heard_;
  absl::Time next_ping_ = absl::InfinitePast(), last_call_ = absl::InfinitePast();
};

}  // namespace lombard
