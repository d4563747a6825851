#include "runtime/cli/door.h"

#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/status.h"
#include "runtime/cli/job_setup.h"

namespace lombard {

Door::Door(JoinDesk::Options options, TcpListener listener, std::vector<messages::Hello> hellos,
           const Fabric& fabric, int size_max, const Job* job)
    : rank_zero_(hellos[0]),
      fabric_job_(fabric.job),
      job_(job),
      places_(static_cast<size_t>(size_max)),
      desk_(
          [&] {
            options.host_keys = [this] {
              std::vector<std::string> keys;
              for (const Place& place : places_) {
                if (place.taken) keys.push_back(place.host_key);
              }
              return keys;
            };
            return options;
          }(),
          std::move(listener)) {
  for (size_t i = 0; i < hellos.size(); ++i) {
    places_[i].host_key = hellos[i].host_key();
    if (fabric.addresses.empty()) continue;
    places_[i].address = fabric.addresses[i];
    places_[i].generation = kFirstGeneration;
  }
}

bool Door::Turn(GManager* gmanager, absl::Time now) {
  using State = Membership::State;
  for (size_t i = 0; i < places_.size(); ++i) {
    const State state = gmanager->membership().members()[i].state;
    places_[i].taken = state != State::kVacant && state != State::kLost && state != State::kLeft;
  }
  for (const JoinDesk::Request& request : desk_.Poll(absl::Now()))
    desk_.Answer(request.guest, Decide(request, gmanager, now));
  return desk_.has_guests();
}

absl::StatusOr<std::string> Door::Decide(const JoinDesk::Request& request, GManager* gmanager,
                                         absl::Time now) {
  messages::JoinRequest wish;
  if (!wish.ParseFromString(request.body) || wish.address().empty())
    return absl::DataLossError("the request to join makes no sense: not the same build?");
  RETURN_IF_ERROR(CheckJoiner(wish.hello(), rank_zero_));
  if (job_->ending()) return absl::UnavailableError("the job is about to end");
  std::optional<InstanceId> wanted;
  if (wish.has_rank()) wanted = InstanceId{wish.rank()};
  ASSIGN_OR_RETURN(const Membership::Grant grant,
                   gmanager->Join(wanted, wish.process(), wish.hello().kv_blocks(), now));
  const uint32_t rank = Value(grant.instance);
  messages::Welcome welcome;
  welcome.set_rank(rank);
  welcome.set_incarnation(Value(grant.incarnation));
  welcome.set_job(fabric_job_);
  for (const Membership::Member& member : gmanager->membership().members())
    welcome.add_kv_blocks(member.kv_blocks);
  for (size_t i = 0; i < places_.size(); ++i) {
    if (places_[i].generation == 0 || i == rank ||
        gmanager->membership().members()[i].state == Membership::State::kLeft) {
      continue;
    }
    messages::Welcome::Member& member = *welcome.add_members();
    member.set_rank(static_cast<uint32_t>(i));
    member.set_generation(places_[i].generation);
    member.set_address(places_[i].address);
  }
  places_[rank] = {request.host_key, wish.address(), Value(grant.incarnation)};
  std::fprintf(stderr, "lombard: %s joins as rank %u\n", request.who.c_str(), rank);
  std::string bytes;
  welcome.SerializeToString(&bytes);
  return bytes;
}

}  // namespace lombard
