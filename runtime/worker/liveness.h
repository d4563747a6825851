// Signs of life between rank 0 and the others. Everyone pings rank 0, where gManager judges
// (gmanager/membership.h); rank 0 pings everyone, and who does not hear it ends. A state machine: time is an
// argument.
#pragma once

#include <algorithm>
#include <optional>
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
  void Down(int peer, bool down, absl::Time now) {  // the connection
    if (peer != 0) return;
    if (down) down_since_ = now;
    if (!down) down_since_.reset();
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
  // Rank 0 is taken for lost. While the connection to it stands, or before its first word, this process may
  // be the one that is cut off: it waits kPatience times as long, to be fenced and come back. Silence of this
  // process itself (it was stopped, or its machine slept) is not held against rank 0: a gap between two calls
  // starts its time anew.
  bool RankZeroSilent(absl::Time now) {
    if (now - last_call_ > dead_after_ / 2) Start(now);
    last_call_ = now;
    const bool patient = !heard_ || !down_since_.has_value();
    const absl::Time since = std::max(last_heard_, down_since_.value_or(absl::InfinitePast()));
    return rank_ != 0 && now - since > (patient ? kPatience : 1) * dead_after_;
  }
  static constexpr int kPatience = 10;  // a guess
  absl::Duration dead_after() const { return dead_after_; }

 private:
  int rank_, size_;
  absl::Duration ping_period_, dead_after_;
  absl::Time last_heard_ = absl::InfiniteFuture();  // of rank 0
  bool heard_ = false;
  std::optional<absl::Time> down_since_;
  absl::Time next_ping_ = absl::InfinitePast(), last_call_ = absl::InfinitePast();
};

}  // namespace lombard
