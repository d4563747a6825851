// A whole control plane in one thread: the global manager, every worker's manager and a small engine each, a
// clock that jumps from event to event, and a network that delays, repeats, overtakes and loses, all drawn
// from one seed.
//
// Oracle: after every event the true ledger, built from what engines hold and what creditors publish, is
// checked: no block has two users, every loan in use is published by its creditor, a waiting request holds
// nothing.
#pragma once

#include <memory>
#include <queue>
#include <random>
#include <string>
#include <vector>

#include "gmanager/gmanager.h"
#include "tests/sim/sim_engine.h"

namespace lombard {

struct SimOptions {
  uint64_t seed = 0;
  std::vector<uint32_t> pools;  // blocks of each worker
  double reserve = 0.05, lent_max = 0.80;
  PlanPolicy policy = PlanPolicy::kGreedy;
  double loss = 0, duplicate = 0;
  bool overtake = false;  // messages between two workers may arrive in another order
  absl::Duration delay_max = absl::Milliseconds(20);
  absl::Duration step_max = absl::Milliseconds(40);
  double hold_snapshots = 0.1;  // share of steps after which a service thread keeps a snapshot for a while
};

class SimCluster {
 public:
  explicit SimCluster(const SimOptions& options);

  void Submit(const SimRequest& request);
  // Until the time has passed, or a check fails.
  void Run(absl::Duration duration);
  // Runs on until all requests are done, for at most `patience`.
  bool RunUntilDone(absl::Duration patience);
  void HealNetwork() { options_.loss = options_.duplicate = 0; }
  // After everything is done and the messages have settled: all memory is back and the books balance.
  absl::Status CheckSettled() const;

  absl::Time now() const { return now_; }
  const absl::Status& verdict() const { return verdict_; }  // the first violation
  const SimEngine& engine(int i) const { return *workers_[i]->engine; }
  const RManager& manager(int i) const { return *workers_[i]->manager; }
  const GManager& gmanager() const { return gmanager_; }
  uint64_t events() const { return events_; }
  std::string Describe() const;

 private:
  struct Worker {
    std::unique_ptr<KvPool> pool;
    std::unique_ptr<RManager> manager;
    std::unique_ptr<SimEngine> engine;
    std::vector<std::pair<int, messages::ControlMessage>> inbox;
    std::vector<std::pair<absl::Time, std::shared_ptr<const HostedLoans>>> snapshots;  // held until
  };
  enum class Kind : uint8_t { kDeliver, kStep, kGManager, kArrival };
  struct Event {
    absl::Time time;
    uint64_t order;
    Kind kind;
    int from = 0, to = 0;
    std::shared_ptr<const messages::ControlMessage> message;
    SimRequest request;
    bool operator<(const Event& other) const {
      return std::tie(other.time, other.order) < std::tie(time, order);
    }
  };

  absl::Duration Draw(absl::Duration low, absl::Duration high);
  bool Chance(double p) { return p > 0 && static_cast<double>(random_() >> 11) * 0x1p-53 < p; }
  void Push(absl::Time time, Event event);
  void Send(int from, std::vector<Outgoing> outgoing);
  void Process(const Event& event);
  absl::Status Check() const;
  absl::Status CheckWorker(int i) const;

  SimOptions options_;
  std::mt19937_64 random_;
  absl::Time now_ = absl::UnixEpoch();
  std::priority_queue<Event> queue_;
  uint64_t order_ = 0, events_ = 0;
  std::vector<absl::Time> last_arrival_;  // by from * n + to, for order between two workers
  GManager gmanager_;
  std::vector<std::unique_ptr<Worker>> workers_;
  size_t outstanding_arrivals_ = 0;
  absl::Status verdict_;
};

}  // namespace lombard
