// The creditor's half: which blocks of this worker's pool are lent to whom, in which state
// (fabric/messages/protocol.h).
//
// Step thread only, except hosted(), which any thread may call. Decisions are O(1) in the pool, publishing is
// O(active loans).
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/planted_bug.h"
#include "fabric/messages/protocol.h"
#include "kvpool/kv_pool.h"
#include "kvpool/prefix_tree.h"
#include "rmanager/held_over.h"
#include "rmanager/loans.h"

namespace lombard {

// Blocks that a worker with an empty pool of `total` would lend: all but its reserve, and no more than
// lent_max.
uint32_t LendableBlocksMax(uint32_t total, double reserve, double lent_max);

class LentLedger {
 public:
  struct Options {
    InstanceId self{};
    Incarnation incarnation{};
    double reserve = 0, lent_max = 1;  // shares of the pool
    absl::Duration lease;
    absl::Duration retry;            // of a Recall
    absl::Duration recall_deadline;  // from the first Recall on
    absl::Duration recall_again;     // after a declined one
    absl::Duration adopt_within;     // since its debtor was lost, a loan's blocks are held over
    PlantedBug bug = PlantedBug::kNone;
  };
  struct Counters {
    uint64_t granted = 0;    // activated loans; granted = repaid + lost + active
    uint64_t prefixes = 0;   // of these, loans of prefixes
    uint64_t repaid = 0;     // of these
    uint64_t lost = 0;       // of these, ended by the loss of the debtor or after a recall's deadline
    uint64_t recalled = 0;   // of these, called back
    uint64_t overdue = 0;    // of these, ended by a recall's deadline
    uint64_t withdrawn = 0;  // reservations given back before use
    uint64_t expired = 0;    // reservations whose lease ended
    uint32_t lent_max = 0;   // blocks, at any time
  };

  LentLedger(const Options& options, KvPool* pool);

  uint32_t lendable() const;      // blocks
  uint32_t lendable_max() const;  // with an empty pool
  uint32_t lent() const { return lent_; }
  // References that loans of prefixes hold to blocks of the cache; a block has one of each loan.
  uint32_t prefix_lent() const { return prefix_lent_; }

  // The cache whose blocks may be read by others; null: none. Whoever takes it away, or ends it, does so when
  // nothing of it is lent, or for good.
  void set_prefixes(PrefixTree* prefixes) { prefixes_ = prefixes; }
  // From now on nothing is lent: reservations end, active loans are recalled until `deadline`.
  void Drain(absl::Time deadline);
  bool draining() const { return draining_; }

  // Reserves, or returns the loan already given for this (debtor, ticket); nullopt when it may not lend that
  // much now, or `limit` is less.
  std::optional<Loan> Reserve(InstanceId debtor, uint64_t ticket, RequestId request, uint32_t blocks,
                              uint32_t limit, absl::Time now);
  // The same of the first `blocks` blocks of a prefix, if the cache has them all and the reserve stays free
  // while they cannot be evicted, and the guard bears it. The loan reads them as one more reader: they stay
  // until it has ended and service has let go of them.
  std::optional<Loan> ReservePrefix(InstanceId debtor, uint64_t ticket, RequestId request,
                                    absl::string_view salt, absl::Span<const int32_t> tokens, uint32_t blocks,
                                    bool guard_bears, absl::Time now);
  // Blocks of it that the cache has.
  uint32_t PrefixBlocks(absl::string_view salt, absl::Span<const int32_t> tokens) const;
  // False: no such loan of this debtor.
  bool Activate(InstanceId debtor, LoanId id, uint64_t epoch);
  void Repay(InstanceId debtor, LoanId id, uint64_t epoch);
  // The debtor is lost: its loans end. What is known of active ones is held over.
  void DropDebtor(InstanceId debtor, absl::Time now);
  // The debtor says what lies in slots.
  void NoteStored(InstanceId debtor, LoanId id, uint64_t epoch, uint32_t first_slot,
                  absl::Span<const SlotContent> contents);
  // Reserves a loan of what is held over of the request and fits `names`; the one given already for (debtor,
  // ticket). nullopt: nothing. `blocks`: what its slots hold.
  std::optional<Loan> Adopt(InstanceId debtor, uint64_t ticket, RequestId request,
                            absl::Span<const uint64_t> names, absl::Time now, std::vector<uint32_t>* blocks);
  // The same for this worker itself, which has the pool's references then.
  std::vector<HeldOver::Block> AdoptOwn(RequestId request, absl::Span<const uint64_t> names) {
    return held_over_.Adopt(request, names, names.size());
  }
  // Service has not let go of what is to be held over of the request.
  bool AwaitsService(RequestId request) const;
  const HeldOver& held_over() const { return held_over_; }
  // Calls active loans back, those of the youngest requests first, until with those called back already they
  // cover `blocks` for `wanted_for`; none when they cannot.
  void Recall(uint32_t blocks, RequestId wanted_for, absl::Time now);
  // Calls back the active loans of the youngest request that has any.
  void RecallYoungest(RequestId wanted_for, absl::Time now);
  void DeclineRecall(InstanceId debtor, LoanId id, uint64_t epoch, absl::Time now);
  struct RecallDue {
    Loan loan;
    absl::Duration left;  // until the deadline
    RequestId wanted_for;
  };
  std::vector<RecallDue> TakeRecallsDue(absl::Time now);  // to be sent now
  std::optional<RequestId> recalls_for() const;           // the oldest that loans are being recalled for
  // Ends overdue reservations and recalls, and takes back blocks that service threads have let go of.
  void Tick(absl::Time now);
  absl::Time NextDeadline() const;  // InfiniteFuture without reservations and recalls
  // The process goes on as another one: every loan ends.
  void Restart(Incarnation next);

  std::shared_ptr<const HostedLoans> hosted() const;
  std::vector<std::shared_ptr<const LoanSlots>> slots() const;  // of all loans, reserved ones too
  const Counters& counters() const { return counters_; }
  absl::Status CheckInvariants() const;

 private:
  struct Entry {
    std::shared_ptr<const LoanSlots> slots;
    uint64_t ticket;
    LoanState state;
    absl::Time expiry;                                 // of a reservation or recall
    absl::Time next_retry = absl::InfiniteFuture();    // of a recall
    absl::Time recall_after = absl::InfinitePast();    // since a recall was declined
    RequestId wanted_for;                              // of a recall
    std::vector<std::optional<SlotContent>> contents;  // of slots, as far as known
  };
  // Of an ended loan, until service has let go of its blocks.
  struct Parting {
    RequestId request;
    std::vector<std::optional<SlotContent>> contents;
    absl::Time until;
  };
  using Entries = std::map<LoanId, Entry>;
  // Where LoanSlots go when the last holder drops them, on whatever thread; outlives the ledger if it must.
  struct ReturnBin {
    std::mutex mutex;
    std::vector<std::pair<LoanId, std::vector<BlockId>>> slots;
    std::vector<std::pair<PrefixReader, std::vector<BlockId>>> prefixes;
  };

  bool MayRecall(const Entry& entry, absl::Time now) const {
    return entry.state == LoanState::kActive && now >= entry.recall_after;
  }
  void StartRecall(Entry& entry, RequestId wanted_for, absl::Time now);
  Loan NewLoan(InstanceId debtor, RequestId request, uint32_t blocks);
  void Enter(std::shared_ptr<const LoanSlots> slots, uint64_t ticket, absl::Time now);
  Entries::iterator Find(InstanceId debtor, LoanId id, uint64_t epoch);
  Entries::iterator End(Entries::iterator entry);
  Loan AddEntry(InstanceId debtor, uint64_t ticket, RequestId request, std::vector<BlockId> blocks,
                absl::Time now);
  void Publish();
  void Collect();
  void UnreadPrefix(PrefixReader reader, const std::vector<BlockId>& blocks);

  Options options_;
  KvPool* pool_;
  PrefixTree* prefixes_ = nullptr;
  uint32_t reserve_blocks_, lent_blocks_max_;
  bool draining_ = false;
  uint64_t epoch_, next_loan_ = 1;
  uint32_t lent_ = 0;  // reserved, active, and repaid but still held by a service thread
  uint32_t prefix_lent_ = 0;
  HeldOver held_over_;
  Entries entries_;
  std::map<LoanId, Parting> parting_;
  std::map<std::pair<InstanceId, uint64_t>, LoanId> by_ticket_;
  std::shared_ptr<ReturnBin> bin_ = std::make_shared<ReturnBin>();
  mutable std::mutex hosted_mutex_;
  std::shared_ptr<const HostedLoans> hosted_;
  Counters counters_;
};

}  // namespace lombard
