// The front door's memory of every open request: who computes it and what has been delivered. Requests of a
// process that is lost go to another one with the tokens delivered so far, so every token is delivered
// exactly once (fabric/messages/protocol.h, REQUESTS AND TOKENS). A state machine: messages and time in,
// messages and outputs out.
//
//   Dispatcher dispatcher(instances, options);
//   dispatcher.Submit(request, now);
//   dispatcher.OnTokens(from, incarnation, batch, now);   // of workers
//   dispatcher.OnMembers(members, now);                   // whenever the list changed
//   dispatcher.Tick(now);
//   for (auto& out : dispatcher.TakeOutgoing()) send(out);
//   for (SequenceOutput& output : dispatcher.TakeOutputs()) ...
//
// Not thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <vector>

#include "absl/time/time.h"
#include "base/planted_bug.h"
#include "fabric/messages/outgoing.h"
#include "gmanager/membership.h"
#include "gmanager/prefix_index.h"
#include "gmanager/router.h"
#include "runtime/engine/sequence.h"

namespace lombard {

class Dispatcher {
 public:
  struct Options {
    Incarnation incarnation{1};  // of this process
    // A request for which the memory that is left is too small waits so long for a worker, then fails.
    absl::Duration recovery_wait = absl::Seconds(60);
    // Nothing is given out before everyone has been a member, or so long after the first one was.
    absl::Duration start_wait = absl::Seconds(10);
    std::optional<PrefixSpace> prefixes;  // of the homes' caches; unset: they keep none
    // Of an instance with a pool of so many blocks, for those that join. Empty: nobody does.
    std::function<Router::Instance(uint32_t kv_blocks)> size_of;
    PlantedBug bug = PlantedBug::kNone;
  };
  struct Counters {
    uint64_t replayed = 0;         // requests given out again, as their home was lost
    uint64_t replayed_tokens = 0;  // of them, prompts and what had been delivered
    uint64_t handed_back = 0;      // requests given out again, as their home leaves
    uint64_t stale_tokens = 0;     // from processes that are not, or no longer, a request's home
    uint64_t copied_tokens = 0;    // delivered before
  };

  Dispatcher(std::vector<Router::Instance> instances, const Options& options);

  // `home`: the instance, instead of the router's choice. REQUIRES: a new id.
  void Submit(SequenceRequest request, absl::Time now, std::optional<InstanceId> home = {});
  void OnTokens(int from, uint64_t incarnation, const messages::TokenBatch& batch, absl::Time now);
  // Of a worker that is about to leave: it gets nothing more.
  void OnHandBack(int from, uint64_t incarnation, const messages::HandBack& back, absl::Time now);
  void OnMembers(const std::vector<Membership::Member>& members, absl::Time now);
  void Tick(absl::Time now);
  absl::Time NextDeadline() const;

  // Forgets every request; the messages that tell their homes.
  std::vector<Outgoing> CancelAll();
  std::vector<Outgoing> TakeOutgoing() { return outbox_.Take(); }
  // In order for each request; the last one of a request has `finished`.
  std::vector<SequenceOutput> TakeOutputs() { return std::exchange(outputs_, {}); }
  // Workers whose tokens have a gap: what they say cannot be relied on. The caller has them declared lost.
  std::vector<int> TakeBroken() { return std::exchange(broken_, {}); }
  const Counters& counters() const { return counters_; }
  size_t open_count() const { return open_.size(); }
  // It gets requests.
  bool IsAlive(InstanceId instance) const {
    const Membership::Member& member = members_[Value(instance)];
    if (options_.bug == PlantedBug::kGiveToDraining) return member.belongs();
    return member.state == Membership::State::kAlive &&
           leaving_[Value(instance)] != Value(member.incarnation);
  }

 private:
  struct Open {
    SequenceRequest request;  // with all delivered tokens in `output`
    std::optional<InstanceId> wanted;
    std::optional<InstanceId> home;  // nobody's while the memory that is left is too small
    uint64_t charge = 0;             // of the router's choice
    Incarnation incarnation{};       // of home
    std::optional<absl::Time> too_small_since;
    uint64_t tokens_max() const { return request.prompt.size() + request.sampling.max_tokens; }
  };
  using OpenRequests = std::map<RequestId, Open>;

  void Place(Open& open, absl::Time now);
  void LeaveHome(Open& open);
  bool Fits(const Open& open) const;
  std::vector<uint64_t> BlockNames(const SequenceRequest& request) const;  // of prompt and output
  void TellHome(const RequestId& id, const Open& open);
  OpenRequests::iterator Fail(OpenRequests::iterator it);

  const Options options_;
  Outbox outbox_;
  Router router_;
  PrefixIndex index_;
  std::vector<Membership::Member> members_;  // by instance
  std::vector<uint64_t> leaving_;            // by instance: the incarnation that hands back
  std::optional<absl::Time> first_members_;
  bool started_ = false;
  OpenRequests open_;
  std::vector<SequenceOutput> outputs_;
  std::vector<int> broken_;
  Counters counters_;
};

}  // namespace lombard
