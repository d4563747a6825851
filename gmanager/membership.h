// Who belongs to the cluster (fabric/messages/protocol.h, MEMBERSHIP): the list that gManager alone issues. A
// state machine: time is an argument. Not thread-safe.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/time/time.h"
#include "base/ids.h"

namespace lombard {

class Membership {
 public:
  enum class State : uint8_t { kUnknown, kAlive, kLost };
  struct Member {
    State state = State::kUnknown;
    Incarnation incarnation{};  // the newest that belonged; 0 = none yet
    uint64_t process = 0;
    absl::Time last_heard = absl::InfinitePast();
  };
  enum class Verdict : uint8_t { kMember, kFenced };

  // `own`: the instance of this very process, which is never silent.
  Membership(int instances, InstanceId own, absl::Duration dead_after)
      : own_(own), dead_after_(dead_after), members_(instances) {}

  // A sign of life. kMember: the process belongs, from now on if it is new. kFenced: its time is over.
  Verdict Heard(InstanceId instance, Incarnation incarnation, uint64_t process, absl::Time now);
  // Whether messages of this incarnation count.
  bool IsAlive(InstanceId instance, Incarnation incarnation) const {
    const Member& member = members_[Value(instance)];
    return member.state == State::kAlive && member.incarnation == incarnation;
  }
  void Lose(InstanceId instance);  // nothing happens to who is not alive
  // Loses everyone who has been silent for too long. Silence of this process itself (it was stopped, or its
  // machine slept) is not held against the others: a gap between two calls starts their time anew.
  void Tick(absl::Time now);
  absl::Time NextDeadline() const;

  const std::vector<Member>& members() const { return members_; }  // by instance
  uint64_t number() const { return number_; }                      // grows with every change
  uint64_t lost_count() const { return lost_count_; }              // processes, ever

 private:
  InstanceId own_;
  absl::Duration dead_after_;
  std::vector<Member> members_;
  uint64_t number_ = 0, lost_count_ = 0;
  absl::Time last_tick_ = absl::InfiniteFuture();
};

}  // namespace lombard
