// A worker's engine reduced to what the managers see of it: requests that need memory, grow, and end. Follows
// the rules that fabric/messages/protocol.h sets for a home: all or nothing, wait without holding, preempt
// rather than wait while holding.
#pragma once

#include <map>
#include <random>
#include <vector>

#include "kvpool/kv_pool.h"
#include "rmanager/rmanager.h"

namespace lombard {

struct SimRequest {
  RequestId id;
  InstanceId home{};
  uint32_t blocks = 1;      // at admission
  uint32_t growth = 0;      // blocks it grows by, one at a time
  absl::Duration run_time;  // from admission to end, when growth is not in its way
  absl::Time arrival;
};

class SimEngine {
 public:
  enum class Phase : uint8_t { kWaiting, kAdmitting, kRunning, kDone };
  struct State {
    SimRequest request;
    Phase phase = Phase::kWaiting;
    std::vector<BlockId> local;
    std::map<LoanId, Loan> loans;
    uint64_t ticket = 0;  // of the borrowing under way; 0 = none
    absl::Time not_before = absl::InfinitePast();
    std::optional<absl::Time> blocked_since;
    absl::Time admitted;
    uint32_t grown = 0;
    int preemptions = 0;
  };

  SimEngine(RManager* manager, KvPool* pool, uint64_t seed) : manager_(manager), pool_(pool), random_(seed) {}

  void Submit(const SimRequest& request) { requests_[request.id].request = request; }
  // What the engine does between two steps: take events, admit, grow, end, tell the load.
  void Step(absl::Time now);

  const std::map<RequestId, State>& requests() const { return requests_; }
  bool AllDone() const;
  int preemptions() const { return preemptions_; }
  int moves() const { return moves_; }

 private:
  void OnEvent(const RManager::Event& event, absl::Time now);
  void TryAdmit(State& state, absl::Time now);
  void Run(State& state, absl::Time now);
  void Grow(State& state, absl::Time now);
  void Preempt(absl::Time now);
  void ReleaseEverything(State& state, absl::Time now);
  void ReportLoad();
  uint32_t HeldByYounger() const;
  static uint32_t Held(const State& state);

  RManager* manager_;
  KvPool* pool_;
  std::mt19937_64 random_;
  std::map<RequestId, State> requests_;                        // oldest first
  std::map<uint64_t, std::pair<uint64_t, RequestId>> moving_;  // ticket -> plan, request
  int preemptions_ = 0, moves_ = 0;
};

}  // namespace lombard
