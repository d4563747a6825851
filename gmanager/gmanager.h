// The global manager: knows the cluster from heartbeats, publishes the view and the claim, and advises moves.
// The protocol is specified in fabric/messages/protocol.h. A state machine fed with messages and time, like
// the workers' half.
//
//   GManager manager(options);
//   manager.Handle(from, message, now);   // Ping, Heartbeat, MoveKvDone, Left
//   manager.ConnectionLost(peer, now);    // the transport's news
//   manager.Tick(now);                    // members, claim, plans
//   for (auto& out : manager.TakeOutgoing()) send(out);
//
// At most `instances` workers, instance i at rank i. Not thread-safe. Messages are input: what is malformed
// or stale is counted and dropped. Cost: O(instances) per heartbeat; a plan as in planner.h.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "fabric/messages/outgoing.h"
#include "gmanager/cost_model.h"
#include "gmanager/membership.h"
#include "gmanager/planner.h"
#include "gmanager/prefix_planner.h"

namespace lombard {

struct GManagerOptions {
  int instances = 1;                // places
  int expected = 0;                 // those of them that are expected from the start; 0: all
  InstanceId own{};                 // of this process
  std::vector<uint32_t> kv_blocks;  // by instance, of those expected; empty: not known
  Incarnation incarnation{1};
  PlanOptions plan;
  CostModel::Options cost;
  absl::Duration plan_period = absl::Milliseconds(200);
  absl::Duration claim_after = absl::Milliseconds(250);
  absl::Duration dead_after = absl::Seconds(1);  // without a ping
  absl::Duration join_wait = absl::Seconds(10);  // from the grant of an instance to the first ping
  absl::Duration move_deadline = absl::Seconds(60);
  PlantedBug bug = PlantedBug::kNone;
};

class GManager {
 public:
  struct Claim {
    RequestId request;
    InstanceId home{};
    uint32_t blocks = 0, spare = 0;
    bool operator==(const Claim&) const = default;
  };
  struct Counters {
    uint64_t heartbeats = 0, full_dumps_asked = 0, plans = 0, moves_sent = 0, moves_refused = 0,
             blocks_moved = 0;
    uint64_t copies_advised = 0;  // of prefixes
    uint64_t stale = 0, malformed = 0, fenced = 0;
  };

  explicit GManager(const GManagerOptions& options);

  void Handle(int from, const messages::ControlMessage& message, absl::Time now);
  void Tick(absl::Time now);
  std::vector<Outgoing> TakeOutgoing() { return outbox_.Take(); }
  absl::Time NextDeadline() const;
  void ConnectionLost(int peer, absl::Time now);
  // A process that rank 0 has let in asks for a place; errors as of Membership::Join.
  absl::StatusOr<Membership::Grant> Join(std::optional<InstanceId> wanted, uint64_t process,
                                         uint32_t kv_blocks, absl::Time now);

  const Membership& membership() const { return membership_; }

  // What the planner would see now: who holds what for whom.
  ClusterState State() const;
  const std::optional<Claim>& claim() const { return claim_; }
  const Counters& counters() const { return counters_; }

 private:
  struct Blocked {
    RequestId request;
    uint32_t blocks, held;
    absl::Time since;
  };
  using PlacementKey = std::pair<RequestId, InstanceId>;  // request, host
  struct Record {
    uint64_t seq = 0;       // 0 = has not reported
    bool complete = false;  // placements are known in full
    messages::InstanceFacts facts;
    uint64_t waiting_tokens = 0, own_tokens = 0;
    std::optional<Blocked> blocked;
    std::optional<RequestId> oldest;
    std::set<InstanceId> unreachable;  // for this instance
    std::map<PlacementKey, Placement> placements;
    std::map<uint64_t, PrefixUse> prefixes;  // by name
  };
  struct OpenMove {
    Move move;
    absl::Time deadline;
  };

  bool Admit(int from, uint64_t incarnation, uint64_t process, absl::Time now);
  void FollowMembership(absl::Time now);
  void PublishView();
  void OnHeartbeat(int from, const messages::Heartbeat& beat, absl::Time now);
  void OnMoveDone(int from, const messages::MoveKvDone& done);
  void ApplyPlacements(Record& record, const messages::Heartbeat& beat);
  void ApplyPrefixes(Record& record, const messages::Heartbeat& beat);
  void UpdateOldest();
  void UpdateClaim(absl::Time now);
  uint32_t SpareBeside(const Blocked& blocked, InstanceId home) const;
  void FillView(messages::ClusterView* view) const;
  void SendMoves(absl::Time now);
  void SendCopies(absl::Time now);

  GManagerOptions options_;
  Outbox outbox_;
  CostModel cost_;
  Membership membership_;
  uint64_t followed_ = 0;        // the number of the members' list that the records fit
  std::vector<Record> records_;  // by instance
  uint64_t epoch_ = 1;
  std::optional<Claim> claim_;
  std::optional<RequestId> oldest_;
  std::map<uint64_t, OpenMove> moves_;  // by plan id
  uint64_t next_plan_ = 1;
  std::map<std::pair<uint64_t, InstanceId>, absl::Time> copies_;  // under way, with their deadlines
  std::map<uint64_t, uint32_t> copies_advised_;                   // by name, as long as it is reported
  absl::Time next_plan_time_ = absl::InfinitePast();
  bool started_ = false;
  Counters counters_;
};

}  // namespace lombard
