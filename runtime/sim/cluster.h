// A whole cluster in one thread: gManager, dispatcher and every worker's manager and engine as production
// runs them (GManager, Dispatcher, Instance), above symbolic machines, in simulated time on a simulated
// network, through the faults of a scenario.
//
//   ClusterSim sim(DrawScenario(seed));
//   absl::Status verdict = sim.Run();
//
// The oracle (oracle.h) knows every request's context and answer. It checks each committed step's coverage
// (symbolic_machine.h), the books of a worker before and after each of its steps, each token when it is
// delivered, and at the end, after all faults are healed, that every request was answered once and rightly
// within a bound and that all memory is back.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "gmanager/gmanager.h"
#include "kvpool/kv_pool.h"
#include "rmanager/rmanager.h"
#include "runtime/engine/engine.h"
#include "runtime/job/dispatcher.h"
#include "runtime/model/tokenizer/tokenizer.h"
#include "runtime/sim/event_queue.h"
#include "runtime/sim/network.h"
#include "runtime/sim/oracle.h"
#include "runtime/sim/random.h"
#include "runtime/sim/scenario.h"
#include "runtime/sim/symbolic_machine.h"
#include "runtime/worker/instance.h"

namespace lombard::sim {

struct SimStats {
  uint64_t events = 0, steps = 0, remote_steps = 0, abandoned_steps = 0, tokens = 0;
  uint64_t loans = 0, recalled = 0, guard_recalls = 0, overdue = 0, lost = 0, fenced = 0, replayed = 0,
           adopted_tokens = 0, preemptions = 0;
  uint64_t joined = 0, left = 0, handed_back = 0;
  uint64_t prefixes = 0, copied = 0;  // of loans, to read a prefix; prefixes brought home for all readers
  uint64_t awaited = 0;               // of prefixes, those that were still being computed
  uint64_t copies_advised = 0;        // begun because gManager advised it
  uint64_t prefixes_lent = 0;         // whole, each for all its readers
};

constexpr uint32_t kPoolOfComers = 32;  // blocks of those that take any place: none shrinks by them

class ClusterSim {
 public:
  // `trace`, when set, gets a line for everything that happens.
  explicit ClusterSim(Scenario scenario, std::function<void(const std::string&)> trace = {});
  ~ClusterSim();

  absl::Status Run();  // the first violation, with the time
  const SimStats& stats() const { return stats_; }

 private:
  struct Process;

  void StartProcess(int rank, Incarnation incarnation, uint64_t number, uint32_t blocks);
  void EndProcess(int rank);
  // A process comes to rank 0's door, again and again until it is let in.
  void Come(std::optional<InstanceId> wanted, uint32_t blocks);
  void ComeLater(absl::Duration delay, std::optional<InstanceId> wanted, uint32_t blocks);
  bool GoneForGood(Process& process);
  void TellToLeave(const Fault& fault);
  void Apply(const Fault& fault);
  void Deliver(int from, int to, const Payload& payload);
  void OnDown(int at, int peer);
  void Receive(Process& process, int from, const Payload& payload);
  void SendAll(int from, std::vector<Outgoing> outgoing);
  // Runs `what` for the process if it still is the one at the rank; later, while it is stopped.
  void ForProcess(int rank, uint64_t number, std::function<void(Process&)> what);
  void PingLoop(int rank, uint64_t number);
  void StepLoop(int rank, uint64_t number);
  void Compute(Process& process, absl::Duration seconds);
  void TryFinishStep(Process& process);
  void WaitForCreditors(Process& process);
  void TryServe(Process& process);
  std::shared_ptr<const LoanSlots> SlotsOf(const Process& creditor, int debtor, LoanId loan,
                                           uint64_t epoch) const;
  void AnswerLater(Process& process, int from, std::shared_ptr<const LoanSlots> slots, absl::Duration busy,
                   std::function<Payload(SymbolicMachine&, const LoanSlots*)> answer,
                   std::function<void(Process&)> then = {});
  void ManagerLoop();
  void AfterManager();
  void TakeOutputs();

  Sampler SamplerOf(int rank) const;
  std::vector<uint32_t> KnownPools() const;  // by rank, as who joins is told

  void Violate(const std::string& what);
  void Trace(const std::function<std::string()>& line) {
    if (trace_) trace_(line());
  }
  // Of one worker, before or after a step of it.
  absl::Status CheckProcess(const Process& process) const;
  absl::Status CheckKv(const Process& process) const;
  absl::Status CheckCache(const Process& process) const;
  absl::Status CheckDraining(const Process& process) const;
  absl::Status CheckSettled() const;
  std::string DescribeOpen() const;

  const Scenario scenario_;
  const std::function<void(const std::string&)> trace_;
  EventQueue events_;
  SimRandom random_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<Network> network_;
  GManager gmanager_;
  Dispatcher dispatcher_;
  uint64_t members_seen_ = 0, next_process_ = 1;
  int coming_ = 0;                                   // processes at the door
  std::map<Sampler, uint64_t> owners_;               // the process of each incarnation
  std::vector<std::unique_ptr<Process>> processes_;  // by rank; null: none
  RequestOracle requests_;
  LoanOracle loans_;
  absl::Status verdict_;
  SimStats stats_;
};

}  // namespace lombard::sim
