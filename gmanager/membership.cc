#include "gmanager/membership.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace lombard {

Membership::Membership(const Options& options) : options_(options), members_(options.instances) {
  CHECK(options.kv_blocks.empty() || options.kv_blocks.size() == members_.size());
  for (size_t i = 0; i < members_.size(); ++i) {
    if (static_cast<int>(i) < options.expected) members_[i].state = State::kExpected;
    if (!options.kv_blocks.empty()) members_[i].kv_blocks = options.kv_blocks[i];
  }
}

Membership::Verdict Membership::Heard(InstanceId instance, Incarnation incarnation, uint64_t process,
                                      absl::Time now) {
  Member& member = members_[Value(instance)];
  if (member.state == State::kVacant || (member.granted && process != member.process)) return Verdict::kTaken;
  if (member.state == State::kJoining && incarnation == member.incarnation) {
    member.state = State::kAlive;
    member.last_heard = now;
    ++number_;
    return Verdict::kMember;
  }
  if (incarnation > member.incarnation && member.state != State::kLeft) {
    member.state = State::kAlive;
    member.incarnation = incarnation;
    member.process = process;
    member.last_heard = now;
    ++number_;
    return Verdict::kMember;
  }
  if (incarnation < member.incarnation || !member.belongs()) return Verdict::kFenced;
  if (process != member.process) {
    Lose(instance);
    return Verdict::kFenced;
  }
  member.last_heard = now;
  return Verdict::kMember;
}

absl::StatusOr<Membership::Grant> Membership::Join(std::optional<InstanceId> wanted, uint64_t process,
                                                   uint32_t kv_blocks, absl::Time now) {
  if (wanted.has_value() && Value(*wanted) >= members_.size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "rank ", Value(*wanted), " is not below --size-max, which is ", members_.size(), " in this job"));
  }
  if (!wanted.has_value()) {
    // Who is lost may live, and comes back if its place is still there.
    for (const State state : {State::kVacant, State::kLeft, State::kLost}) {
      for (size_t i = 0; i < members_.size() && !wanted.has_value(); ++i) {
        if (members_[i].state == state && InstanceId(i) != options_.own) wanted = InstanceId(i);
      }
    }
  }
  if (!wanted.has_value()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("all ", members_.size(),
                     " ranks are taken: start rank 0 with a larger --size-max, or wait "
                     "until one has left or is lost (--dead-after)"));
  }
  Member& member = members_[Value(*wanted)];
  if (!Free(member)) {
    return absl::FailedPreconditionError(
        absl::StrCat("rank ", Value(*wanted), " is taken by a process that ",
                     member.state == State::kJoining ? "joins" : "lives",
                     ": name no --rank, drain that process, or wait until it is lost (--dead-after)"));
  }
  // A process that was lost may have taken the next number already, and not know that its place is gone.
  uint64_t next = Value(member.incarnation) + (member.state == State::kLost ? 2 : 1);
  if (options_.bug == PlantedBug::kJoinReusesNumber) next = Value(member.incarnation);
  member = {.state = State::kJoining,
            .incarnation = Incarnation{std::max<uint64_t>(next, 1)},
            .process = process,
            .granted = true,
            .kv_blocks = kv_blocks,
            .last_heard = now};
  ++number_;
  return Grant{*wanted, member.incarnation};
}

void Membership::Drain(InstanceId instance) {
  Member& member = members_[Value(instance)];
  if (member.state != State::kAlive) return;
  member.state = State::kDraining;
  ++number_;
}

void Membership::Leave(InstanceId instance) {
  Member& member = members_[Value(instance)];
  if (!member.belongs()) return;
  member.state = State::kLeft;
  ++number_;
}

void Membership::Lose(InstanceId instance) {
  Member& member = members_[Value(instance)];
  if (!member.belongs() && member.state != State::kJoining && member.state != State::kExpected) return;
  lost_count_ += member.belongs();
  member.state = State::kLost;
  ++number_;
}

void Membership::Tick(absl::Time now) {
  const bool slept = now - last_tick_ > options_.dead_after / 2;
  last_tick_ = now;
  for (size_t i = 0; i < members_.size(); ++i) {
    Member& member = members_[i];
    const bool joining = member.state == State::kJoining;
    if ((!member.belongs() && !joining) || InstanceId(i) == options_.own) continue;
    if (slept) member.last_heard = std::max(member.last_heard, now);
    if (now - member.last_heard > (joining ? options_.join_wait : options_.dead_after)) Lose(InstanceId(i));
  }
}

absl::Time Membership::NextDeadline() const {
  absl::Time next = last_tick_ == absl::InfiniteFuture() ? absl::InfinitePast() : absl::InfiniteFuture();
  for (size_t i = 0; i < members_.size(); ++i) {
    const Member& member = members_[i];
    const bool joining = member.state == State::kJoining;
    if ((!member.belongs() && !joining) || InstanceId(i) == options_.own) continue;
    next = std::min(next, member.last_heard + (joining ? options_.join_wait : options_.dead_after) +
                              absl::Microseconds(1));
  }
  return next;
}

}  // namespace lombard
