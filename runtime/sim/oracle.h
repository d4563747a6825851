// What stands outside the simulated cluster and knows the truth: of every request, of every loan's end, of
// every block. See docs/simulation.md.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "kvpool/kv_pool.h"
#include "rmanager/rmanager.h"
#include "runtime/engine/engine.h"
#include "runtime/sim/scenario.h"
#include "runtime/sim/symbolic_machine.h"

namespace lombard::sim {

// Each request's answer: what its homes deliver one after the other, each going on from all that was
// delivered before.
class RequestOracle {
 public:
  void Add(const RequestId& id, const SimRequest& request);
  // The front door gives it to a process.
  absl::Status Given(const RequestId& id, const Sampler& home);
  absl::Status Delivered(const SequenceOutput& output);
  // Of the context as that process must see it; 0: it was never given the request, or not so long.
  Cell CellOf(const RequestId& id, const Sampler& at, uint32_t position) const;
  // Before the first token: a salt's own, so that KV of another salt is foreign.
  static Cell OriginOf(absl::string_view salt);
  Cell OriginOf(const RequestId& id) const { return requests_.at(id).origin; }
  bool AllDone() const;
  std::string DescribeOpen() const;

 private:
  struct Chain {
    std::vector<int32_t> tokens;
    std::vector<Cell> cells;
  };
  struct Request {
    std::vector<int32_t> tokens;  // prompt, and what was delivered
    uint32_t prompt_size = 0, max_tokens = 0;
    Cell origin = 0;
    std::map<Sampler, Chain> chains;
    const Chain* home = nullptr;
    bool finished = false;
  };
  std::map<RequestId, Request> requests_;
};

// What one worker has been told, and so may or must do with loans.
class CreditorAudit {
 public:
  void OnMessage(int from, const messages::ControlMessage& message);  // before its manager handles it
  void OnRecall(const messages::Recall& recall, absl::Time now);      // sent
  absl::Status CheckInUse(const Loan& loan) const;                    // the creditor is not known as lost

 private:
  friend class LoanOracle;
  using LoanKey = std::pair<LoanId, uint64_t>;
  std::map<int, uint64_t> newest_, lost_;  // incarnations, by rank
  std::map<LoanKey, absl::Time> recalled_;
  // Since its last step.
  std::set<std::pair<int, LoanKey>> repaid_, activated_;
  std::set<int> ended_debtors_;

  std::map<LoanId, Loan> hosted_;  // then
  uint64_t incarnation_ = 0;
};

// Ends of active loans. A creditor ends one after its debtor's Repay, because the debtor's process is gone,
// after the deadline of a recall (`drain_end`, when it drains), or because it was fenced itself, and for no
// other reason. What a debtor uses is at its creditor, unless that ended it so.
class LoanOracle {
 public:
  absl::Status CreditorStepped(int rank, const RManager& creditor, Incarnation incarnation,
                               absl::Duration recall_deadline, absl::Time drain_end, absl::Time now,
                               CreditorAudit* audit);
  void CreditorGone(const RManager& creditor);
  // `creditor`: the process that is there now, or null.
  absl::Status CheckInUse(const Loan& loan, const RManager* creditor) const;

 private:
  std::set<CreditorAudit::LoanKey> ended_;  // and their debtors may not know it
};

// Of one worker: over any own steps in a row, what was attended for others while they computed is at most the
// guard's share of what they and the step before them computed, and one slice.
class GuardOracle {
 public:
  void Attended(double seconds);  // a slice that began and ended while an own step computed
  absl::Status StepEnded(double own_seconds, double guard);
  void Idle() { excess_ = attended_ = last_own_ = 0; }  // no own request runs

 private:
  double attended_ = 0, last_own_ = 0, excess_ = 0, slice_max_ = 0;  // seconds
};

// Each of a worker's blocks is free, or has exactly the users that the pool counts: tables, the prefix
// cache, one loan, or a service thread that has not let go of one (`served`).
absl::Status AuditBlocks(const KvPool& pool, const RManager& rmanager, const Engine& engine,
                         const std::vector<std::weak_ptr<const LoanSlots>>& served);
// Between the events of the manager and a step: the tables' loans are the ledger's.
absl::Status AuditTables(const RManager& rmanager, const Engine& engine);

}  // namespace lombard::sim
