// What one worker decides, without threads, sockets or a clock: its manager and its engine, between and
// around steps. The worker's step thread drives it, and so does the simulation.
//
//   RETURN_IF_ERROR(instance.Handle(from, message, now));   // each that came
//   instance.Tick(now);
//   const StepWork* work = instance.BeginStep(now);
//   if (work != nullptr) instance.FinishStep(machine.Run(*work), now);
//   instance.OnFailures(machine.TakeFailures(), now);
//   for (Outgoing& out : instance.TakeOutgoing()) send(out);
//
// One thread. Between BeginStep and FinishStep nothing else is called.
#pragma once

#include <algorithm>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "distattn/remote_failure.h"
#include "fabric/messages/outgoing.h"
#include "kvpool/kv_pool.h"
#include "rmanager/rmanager.h"
#include "runtime/engine/engine.h"

namespace lombard {

class Instance {
 public:
  // Nothing is owned; all outlive this. `front_door`: the rank that tokens go to.
  Instance(Incarnation incarnation, int front_door, KvPool* pool, RManager* rmanager, Engine* engine,
           PlantedBug bug = PlantedBug::kNone)
      : bug_(bug),
        incarnation_(incarnation),
        front_door_(front_door),
        pool_(pool),
        rmanager_(rmanager),
        engine_(engine),
        tokens_(Value(incarnation)) {}

  // Submit, Cancel and what concerns the rmanager. Error: a request whose parameters are not valid ones.
  absl::Status Handle(int from, const messages::ControlMessage& message, absl::Time now);
  void PeerUnreachable(int peer, absl::Time now) { rmanager_->PeerUnreachable(peer, now); }
  void Tick(absl::Time now);

  const StepWork* BeginStep(absl::Time now) { return engine_->Begin(now); }
  StepReport FinishStep(absl::StatusOr<StepResult> result, absl::Time now) {
    return engine_->Finish(std::move(result), now);
  }
  void OnFailures(absl::Span<const RemoteFailure> failures, absl::Time now);
  std::vector<Outgoing> TakeOutgoing();

  // To leave in good order, within `wait` (protocol.h, Draining). Again: at once.
  void Drain(absl::Duration wait, absl::Time now);
  bool draining() const { return drain_end_.has_value(); }
  bool left() const { return left_; }        // it has said so: nothing more is to be done
  bool cut_off() const { return cut_off_; }  // it was declared lost while it drained
  bool ousted() const { return ousted_; }    // its place belongs to another process: this one has to end

  // Of this process, now: it grows when the process was declared lost while it lived.
  Incarnation incarnation() const { return incarnation_; }
  uint64_t fenced_count() const { return fenced_count_; }
  // Nothing runs or waits, and nothing is lent or borrowed.
  bool quiet() const;
  absl::Time NextDeadline() const {
    const absl::Time drain =
        draining() && !left_ ? std::min(*drain_end_, hand_back_) : absl::InfiniteFuture();
    return std::min({rmanager_->NextDeadline(), engine_->NextRetry(), drain});
  }

 private:
  void FollowMembers();  // what one request can hold, by the newest list
  void GoOnDraining(absl::Time now);
  void HandBack(bool running, absl::Time now);

  const PlantedBug bug_;
  Incarnation incarnation_;
  const int front_door_;
  KvPool* const pool_;
  RManager* const rmanager_;
  Engine* const engine_;
  Outbox tokens_;
  uint64_t fenced_count_ = 0;
  std::optional<absl::Time> drain_end_;
  absl::Time hand_back_ = absl::InfiniteFuture();  // running requests
  bool left_ = false, cut_off_ = false, ousted_ = false;
};

}  // namespace lombard
