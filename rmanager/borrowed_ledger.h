// The debtor's half: borrowings under way (all or nothing), loans in use, repayments not yet confirmed
// (fabric/messages/protocol.h).
//
// Step thread only. Messages go to the Outbox, results wait in TakeResults(). Everything that is iterated is
// ordered, so that equal inputs give equal messages.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/planted_bug.h"
#include "fabric/messages/outgoing.h"
#include "fabric/messages/protocol.h"
#include "rmanager/loans.h"

namespace lombard {

class BorrowedLedger {
 public:
  struct Options {
    InstanceId self{};
    absl::Duration reply_deadline, retry, backoff;
    PlantedBug bug = PlantedBug::kNone;
  };
  // Of one Borrow. Success: `loans` cover the blocks. Otherwise nothing is held.
  struct Result {
    uint64_t ticket;
    RequestId request;
    Purpose purpose;
    uint32_t blocks;
    bool granted;
    std::vector<Loan> loans;
    std::vector<uint32_t> adopted;  // of an adoption: what the slots of the one loan hold
    uint32_t cluster_free = 0;      // what the others would have lent, by our view
    absl::Time retry_after;
    std::optional<uint32_t> coming;  // of a prefix that the holder has in part and is computing
  };

  BorrowedLedger(const Options& options, Outbox* outbox) : options_(options), outbox_(outbox) {}

  // `facts` is consulted for room and claim. REQUIRES: blocks > 0.
  uint64_t Borrow(RequestId request, uint32_t blocks, Purpose purpose, absl::Time now,
                  std::optional<InstanceId> only_from, const ClusterFacts& facts);
  // Asks `holder` to let the request read the prefix that these tokens are. REQUIRES: as many as fill
  // `blocks`.
  uint64_t BorrowPrefix(RequestId request, InstanceId holder, messages::PrefixKey prefix, uint32_t blocks,
                        absl::Time now, const ClusterFacts& facts);
  // What the creditor holds over of the request, if it fits `names`; nobody else is asked. REQUIRES: names.
  uint64_t Adopt(RequestId request, InstanceId creditor, const LostHome& lost, std::vector<uint64_t> names,
                 absl::Time now);
  // Blocks lie in consecutive slots of a loan in use.
  void TellStored(LoanId id, uint32_t first_slot, absl::Span<const SlotContent> contents);
  void Cancel(uint64_t ticket, absl::Time now);
  bool Repay(LoanId id, absl::Time now);  // false: not in use here
  // Also cancels what is under way for the request.
  void Share(LoanId id) { loans_.at(id).shared = true; }
  void RepayAll(RequestId request, absl::Time now);  // but for shared loans

  void OnReply(InstanceId from, const messages::TryMoveKvReply& reply, const ClusterFacts& facts,
               absl::Time now);
  void OnActivateReply(InstanceId from, const messages::ActivateLoanReply& reply, const ClusterFacts& facts,
                       absl::Time now);
  void OnRepayAck(InstanceId from, const messages::RepayAck& ack);
  // Loans in use from this creditor, which are gone. Borrowings that involve it fail. `process_gone`: there
  // is nobody left to repay; otherwise repayments go on.
  std::vector<Loan> DropCreditor(InstanceId creditor, bool process_gone, const ClusterFacts& facts,
                                 absl::Time now);
  // The process goes on as another one: nothing is borrowed any more.
  void Restart();
  void Tick(const ClusterFacts& facts, absl::Time now);
  absl::Time NextDeadline() const;

  std::vector<Result> TakeResults() { return std::exchange(results_, {}); }
  uint32_t borrowed() const { return borrowed_; }  // blocks in use, but for prefixes
  uint32_t borrowed_max() const { return borrowed_max_; }
  uint64_t refusals() const { return refusals_; }
  bool idle() const { return borrowings_.empty() && repaying_.empty(); }
  const std::map<LoanId, Loan>& loans() const { return loans_; }
  absl::Status CheckInvariants() const;

 private:
  enum class PartState : uint8_t { kAsked, kGranted, kActivating, kActive };
  struct Part {
    InstanceId creditor;
    uint32_t blocks;
    PartState state;
    Loan loan;  // from kGranted on
  };
  struct Borrowing {
    RequestId request;
    uint32_t blocks;
    Purpose purpose;
    std::vector<Part> parts;
    absl::Time deadline, next_retry;
    // Purpose::kPrefix
    messages::PrefixKey prefix;
    std::optional<uint32_t> coming;
    // Of an adoption.
    LostHome lost;
    std::vector<uint64_t> names;
    std::vector<uint32_t> adopted;
  };
  struct Repayment {
    Loan loan;
    absl::Time next_retry;
  };
  using Borrowings = std::map<uint64_t, Borrowing>;

  uint64_t Start(Borrowing borrowing, const ClusterFacts& facts, absl::Time now);
  static uint32_t Counted(const Loan& loan) { return loan.prefix ? 0 : loan.blocks; }
  std::vector<Part> ChooseCreditors(const Borrowing& borrowing, std::optional<InstanceId> only_from,
                                    const ClusterFacts& facts) const;
  bool Knows(LoanId id) const;
  uint32_t Room(InstanceId creditor, RequestId request, Purpose purpose, const ClusterFacts& facts) const;
  uint32_t RoomOfOthers(const Borrowing& borrowing, const ClusterFacts& facts) const;
  bool Fits(const messages::TryMoveKvReply& reply, Borrowing& borrowing, Part& part) const;
  void Ask(uint64_t ticket, const Borrowing& borrowing, const Part& part);
  void Activate(const Part& part);
  void Advance(Borrowings::iterator it, absl::Time now);
  Borrowings::iterator Release(Borrowings::iterator it, absl::Time now);
  Borrowings::iterator Fail(Borrowings::iterator it, const ClusterFacts& facts, absl::Time now);
  void Refuse(uint64_t ticket, const Borrowing& borrowing, const ClusterFacts& facts, absl::Time now);
  void StartRepayment(const Loan& loan, absl::Time now);
  void SendRepay(InstanceId creditor, LoanId id, uint64_t epoch);

  Options options_;
  Outbox* outbox_;
  uint64_t next_ticket_ = 1;
  Borrowings borrowings_;
  std::map<LoanId, Loan> loans_;  // in use
  std::map<LoanId, Repayment> repaying_;
  std::map<RequestId, uint32_t> attempts_;  // creditors' refusals in a row
  std::vector<Result> results_;
  uint32_t borrowed_ = 0, borrowed_max_ = 0;
  uint64_t refusals_ = 0;
};

}  // namespace lombard
