// Signs of life. Everyone pings rank 0, where gManager judges (gmanager/membership.h), and rank 0 everyone,
// who ends when it is silent. The others ping each other less often: who does not hear a peer that gManager
// does not call lost cannot reach it, and treats its loans there as lost. A state machine: time is an
// argument.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "absl/time/time.h"

namespace lombard {

class Liveness {
 public:
  Liveness(int rank, int size, absl::Duration ping_period, absl::Duration dead_after)
      : rank_(rank),
        size_(size),
        ping_period_(ping_period),
        dead_after_(dead_after),
        peers_(static_cast<size_t>(size)) {}

  void Start(absl::Time now) { last_heard_ = now; }
  // True: it was silent (TakeSilent).
  bool Heard(int peer, absl::Time now) {
    if (peer == 0) last_heard_ = now, heard_ = true;
    peers_[static_cast<size_t>(peer)].heard = now;
    return std::exchange(peers_[static_cast<size_t>(peer)].silent, false);
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
    const bool all = rank_ == 0 || pings_++ % kPeerPeriods == 0;
    for (int peer = 0; peer < size_; ++peer) {
      if (peer == 0 || (all && (peer != rank_))) due.push_back(peer);
    }
    return due;
  }
  static constexpr uint64_t kPeerPeriods = 5;
  // Peers that were heard once and have been silent since for twice dead_after, and two of their pings; each
  // once, until it is heard again.
  std::vector<int> TakeSilent(absl::Time now) {
    std::vector<int> silent;
    const absl::Duration patience = 2 * std::max(dead_after_, static_cast<int>(kPeerPeriods) * ping_period_);
    for (int peer = 0; peer < size_; ++peer) {
      Peer& p = peers_[static_cast<size_t>(peer)];
      if (peer == rank_ || p.silent || !p.heard.has_value() || now - *p.heard <= patience) continue;
      p.silent = true;
      silent.push_back(peer);
    }
    return silent;
  }
  // Rank 0 is taken for lost. While the connection to it stands, or before its first word, this process may
  // be the one that is cut off: it waits kPatience times as long, to be fenced and come back. Silence of this
  // process itself (it was stopped, or its machine slept) is not held against rank 0: a gap between two calls
  // starts its time anew.
  bool RankZeroSilent(absl::Time now) {
    if (now - last_call_ > dead_after_ / 2) {
      Start(now);
      for (Peer& peer : peers_) {
        if (peer.heard.has_value()) peer.heard = now;
      }
    }
    last_call_ = now;
    const bool patient = !heard_ || !down_since_.has_value();
    const absl::Time since = std::max(last_heard_, down_since_.value_or(absl::InfinitePast()));
    return rank_ != 0 && now - since > (patient ? kPatience : 1) * dead_after_;
  }
  static constexpr int kPatience = 10;  // a guess
 private:
  struct Peer {
    std::optional<absl::Time> heard;
    bool silent = false;
  };
  int rank_, size_;
  absl::Duration ping_period_, dead_after_;
  absl::Time last_heard_ = absl::InfiniteFuture();  // of rank 0
  bool heard_ = false;
  std::optional<absl::Time> down_since_;
  std::vector<Peer> peers_;
  uint64_t pings_ = 0;
  absl::Time next_ping_ = absl::InfinitePast(), last_call_ = absl::InfinitePast();
};

}  // namespace lombard
