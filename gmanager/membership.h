// Who belongs to the cluster (fabric/messages/protocol.h, MEMBERSHIP): the list that gManager alone issues. A
// state machine: time is an argument. Not thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/ids.h"
#include "base/planted_bug.h"

namespace lombard {

class Membership {
 public:
  enum class State : uint8_t { kVacant, kExpected, kJoining, kAlive, kDraining, kLost, kLeft };
  struct Member {
    State state = State::kVacant;
    Incarnation incarnation{};  // the newest that belonged; 0 = none yet
    uint64_t process = 0;
    bool granted = false;    // to `process`: no other may be this instance
    uint32_t kv_blocks = 0;  // 0 = not known
    absl::Time last_heard = absl::InfinitePast();

    bool belongs() const { return state == State::kAlive || state == State::kDraining; }
  };
  enum class Verdict : uint8_t { kMember, kFenced, kTaken };
  struct Options {
    int instances = 1, expected = 1;  // places, and those of them that are not vacant at the start
    InstanceId own{};                 // the instance of this very process, which is never silent
    absl::Duration dead_after, join_wait;
    std::vector<uint32_t> kv_blocks;  // by instance; empty: not known
    PlantedBug bug = PlantedBug::kNone;
  };

  explicit Membership(const Options& options);

  // A sign of life. kMember: the process belongs, from now on if it is new. kFenced: its time is over.
  // kTaken: and there is no place for it any more.
  Verdict Heard(InstanceId instance, Incarnation incarnation, uint64_t process, absl::Time now);
  // Whether messages of this incarnation count.
  bool IsAlive(InstanceId instance, Incarnation incarnation) const {
    const Member& member = members_[Value(instance)];
    return member.belongs() && member.incarnation == incarnation;
  }
  struct Grant {
    InstanceId instance;
    Incarnation incarnation;
  };
  // A place for a process: `wanted`, or the first of those that are vacant, were left, or whose process is
  // lost. kFailedPrecondition: it is taken, with by whom. kResourceExhausted: all are. kInvalidArgument:
  // there is no such place.
  absl::StatusOr<Grant> Join(std::optional<InstanceId> wanted, uint64_t process, uint32_t kv_blocks,
                             absl::Time now);
  void Drain(InstanceId instance);  // nothing happens to who is not alive
  void Leave(InstanceId instance);  // the same
  void Lose(InstanceId instance);   // nothing happens to who neither belongs nor is awaited
  // Loses everyone who has been silent for too long. Silence of this process itself (it was stopped, or its
  // machine slept) is not held against the others: a gap between two calls starts their time anew.
  void Tick(absl::Time now);
  absl::Time NextDeadline() const;

  const std::vector<Member>& members() const { return members_; }  // by instance
  uint64_t number() const { return number_; }                      // grows with every change
  uint64_t lost_count() const { return lost_count_; }              // processes, ever

 private:
  bool Free(const Member& member) const {
    return member.state == State::kVacant || member.state == State::kLost || member.state == State::kLeft;
  }

  Options options_;
  std::vector<Member> members_;
  uint64_t number_ = 0, lost_count_ = 0;
  absl::Time last_tick_ = absl::InfiniteFuture();
};

}  // namespace lombard
