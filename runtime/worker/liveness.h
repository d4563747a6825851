// Signs of life between rank 0 and the others. Everyone pings rank 0, where gManager judges
// (gmanager/membership.h); rank 0 pings everyone, and who does not hear it ends. A state machine: time is an
// argument.
#pragma once

#include <algorithm>
#include <vector>

#include "absl/time/time.h"

namespace lombard {

class Liveness {
 public:
  Liveness(int rank, int size, absl::Duration ping_period, absl::Duration dead_after)
      : rank_(rank), size_(size), ping_period_(ping_period), dead_after_(dead_after) {}

  void Start(absl::Time now) { last_heard_ = now; }
  void Heard(int peer, absl::Time now) {
    if (peer == 0) last_heard_ = now, heard_ = true;
  }

  // The ranks to ping now, at most once per period.
  std::vector<int> PingsDue(absl::Time now) {
    std::vector<int> due;
    if (now < next_ping_) return due;
    next_ping_ = now + ping_period_;
    for (int peer = 0; peer < size_; ++peer) {
      if (rank_ == 0 || peer == 0) due.push_back(peer);
    }
    return due;
  }
  // Rank 0 has been silent for too long. Silence of this process itself (it was stopped, or its machine
  // slept) is not held against it: a gap between two calls starts its time anew.
  bool RankZeroSilent(absl::Time now) {
    if (now - last_call_ > dead_after_ / 2) Start(now);
    last_call_ = now;
    return rank_ != 0 && now - last_heard_ > (heard_ ? dead_after_ : std::max(dead_after_, kFirstWord));
  }
  // Until the first word of rank 0, who may have to be connected to: as long as it waits for a joiner's.
  static constexpr absl::Duration kFirstWord = absl::Seconds(10);
  absl::Duration dead_after() const { return dead_after_; }

 private:
  int rank_, size_;
  absl::Duration ping_period_, dead_after_;
  absl::Time last_heard_ = absl::InfiniteFuture();  // of rank 0
  bool heard_ = false;
  absl::Time next_ping_ = absl::InfinitePast(), last_call_ = absl::InfinitePast();
};

}  // namespace lombard
