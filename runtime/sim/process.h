// A simulated worker process: what lives and dies with it.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "distattn/service_budget.h"
#include "runtime/sim/cluster.h"

namespace lombard::sim {

struct ClusterSim::Process {
  int rank = 0;
  uint64_t number = 0;
  std::unique_ptr<SymbolicMachine> machine;
  std::unique_ptr<KvPool> pool;
  std::unique_ptr<RManager> rmanager;
  std::unique_ptr<Engine> engine;
  std::unique_ptr<Instance> instance;

  std::deque<std::pair<int, Control>> inbox;  // of the step thread
  std::vector<int> down;                      // peers, for the step thread
  uint64_t step = 0;                          // begun
  bool stepping = false, computed = false;
  absl::Duration own, stolen;  // of the step under way: its computing; what service has taken meanwhile
  absl::Time heard;            // of a creditor, in the step under way
  bool stopped = false;
  CreditorAudit audit;
  std::vector<std::weak_ptr<const LoanSlots>> served;  // that service threads may still read or write
  std::deque<std::pair<int, Query>> queries;           // that wait for service
  bool serving = false;                                // a query
  ServiceBudget budget;
  GuardOracle guard;
  std::deque<std::function<void(Process&)>> stalled;  // what waits until it goes on
  uint32_t blocks = 0;
  // Told to leave: until when, what it hosted then, and when another one comes.
  std::optional<absl::Time> drain_end;
  absl::Time recall_end = absl::InfiniteFuture();
  std::set<LoanId> hosted_then;
  absl::Duration next_after;
  std::optional<absl::Time> left_since;
  bool told_to_leave = false;
};

}  // namespace lombard::sim
