#include "gmanager/membership.h"

#include <algorithm>

namespace lombard {

Membership::Verdict Membership::Heard(InstanceId instance, Incarnation incarnation, uint64_t process,
                                      absl::Time now) {
  Member& member = members_[Value(instance)];
  if (incarnation > member.incarnation) {
    member = {State::kAlive, incarnation, process, now};
    ++number_;
    return Verdict::kMember;
  }
  if (incarnation < member.incarnation || member.state == State::kLost) return Verdict::kFenced;
  if (process != member.process) {
    Lose(instance);
    return Verdict::kFenced;
  }
  member.last_heard = now;
  return Verdict::kMember;
}

void Membership::Lose(InstanceId instance) {
  Member& member = members_[Value(instance)];
  if (member.state != State::kAlive) return;
  member.state = State::kLost;
  ++lost_count_;
  ++number_;
}

void Membership::Tick(absl::Time now) {
  const bool slept = now - last_tick_ > dead_after_ / 2;
  last_tick_ = now;
  for (size_t i = 0; i < members_.size(); ++i) {
    Member& member = members_[i];
    if (member.state != State::kAlive || InstanceId(i) == own_) continue;
    if (slept) member.last_heard = std::max(member.last_heard, now);
    if (now - member.last_heard > dead_after_) Lose(InstanceId(i));
  }
}

absl::Time Membership::NextDeadline() const {
  absl::Time next = last_tick_ == absl::InfiniteFuture() ? absl::InfinitePast() : absl::InfiniteFuture();
  for (size_t i = 0; i < members_.size(); ++i) {
    if (members_[i].state == State::kAlive && InstanceId(i) != own_)
      next = std::min(next, members_[i].last_heard + dead_after_ + absl::Microseconds(1));
  }
  return next;
}

}  // namespace lombard
