// The worker's half of the loan protocol (fabric/messages/protocol.h): lends blocks of this worker's pool,
// borrows from others, tells gManager about both. A state machine fed with messages and time: no socket,
// thread, clock or randomness inside.
//
//   RManager manager(options, &pool);
//   loop:                                             // the step thread, between two steps
//     manager.SetLoad(load);
//     for (auto& [from, message] : inbox) manager.Handle(from, message, now);
//     manager.Tick(now);
//     for (auto& event : manager.TakeEvents()) ...    // Borrowed, BorrowRefused, MoveWanted, LoanLost
//     for (auto& out : manager.TakeOutgoing()) send(out);
//
// Step thread only, except hosted(). The pool is shared with the engine, outlives the manager, and is used by
// nobody else while a call runs. Messages are input: malformed and stale ones are counted and dropped.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/planted_bug.h"
#include "fabric/messages/outgoing.h"
#include "kvpool/kv_pool.h"
#include "rmanager/borrowed_ledger.h"
#include "rmanager/creditor_guard.h"
#include "rmanager/lent_ledger.h"
#include "rmanager/loans.h"

namespace lombard {

struct RManagerOptions {
  InstanceId self{};
  int instances = 1;
  int gmanager = 0;  // rank
  Incarnation incarnation{1};
  uint64_t process = 0;  // differs from one process of an instance to the next
  std::vector<uint32_t>
      kv_blocks;           // pools known at the start, by instance; 0: nobody there. Empty: not known
  double reserve = 0.05;   // share of the pool that is never lent
  double lent_max = 0.80;  // share of the pool that is lent at most
  // Guesses. A peer answers between two of its steps, so deadlines are many steps long.
  absl::Duration heartbeat_period = absl::Milliseconds(50);
  absl::Duration lease = absl::Seconds(30);  // of a reservation; longer than two reply deadlines
  absl::Duration reply_deadline = absl::Seconds(10);
  absl::Duration retry = absl::Seconds(1);
  absl::Duration recall_after = absl::Milliseconds(250);  // an own request has waited for memory
  absl::Duration recall_deadline = absl::Seconds(20);     // longer than two reply deadlines
  absl::Duration recall_again = absl::Seconds(2);         // after the debtor declined
  absl::Duration adopt_within = absl::Seconds(10);        // since the loss of a debtor; its blocks are free
  absl::Duration unreachable_for = absl::Seconds(2);
  absl::Duration backoff =
      absl::Milliseconds(20);  // after a first refusal by a creditor; doubles up to 16-fold
  CreditorGuard::Options guard;
  PlantedBug bug = PlantedBug::kNone;
};

// What the engine tells for the heartbeat. Blocks and tokens of its own requests in its own pool.
struct Load {
  struct Blocked {
    RequestId request;
    uint32_t blocks = 0;  // what it lacks
    absl::Time since;     // when it was first refused
    uint32_t held = 0;    // what it holds already, here and at creditors
  };
  struct LongRequest {
    RequestId request;
    uint32_t blocks = 0;   // at home
    uint32_t movable = 0;  // full blocks with one reader
    // Beside them: a prefix of it that `readers` requests read whole, this one the oldest. It moves whole.
    uint32_t shared = 0, readers = 0;
  };
  struct HotPrefix {
    uint32_t blocks = 0, readers = 0;  // own requests that read it now
    uint64_t rows = 0;                 // of own requests that attended to it so far
    bool here = false;                 // otherwise it is read elsewhere
    bool operator==(const HotPrefix&) const = default;
  };
  uint32_t batch = 0, waiting = 0;
  uint64_t waiting_tokens = 0, own_tokens = 0;
  std::optional<Blocked> oldest_blocked;
  std::optional<RequestId> oldest;  // unfinished
  std::optional<RequestId> oldest_running;
  // What one step of a debtor over one block that is lent here would cost, as a share of an own step; by
  // measured rates, 0 = unknown.
  double block_share = 0;
  std::vector<LongRequest> long_requests;
  std::map<uint64_t, HotPrefix> prefixes;                          // by name, a few
  double weights_seconds = 0, row_seconds = 0, token_seconds = 0;  // of one layer, measured; 0 = unknown
};

// All of the blocks, confirmed by their creditors; use them until Repay.
struct Borrowed {
  uint64_t ticket;
  RequestId request;
  std::vector<Loan> loans;
  std::vector<uint32_t> adopted;  // of an adoption: slot i of the one loan holds this block of the sequence
};
// None of the blocks; everything was given back. Do not try again before `retry_after`.
struct BorrowRefused {
  uint64_t ticket;
  RequestId request;
  uint32_t blocks_wanted, cluster_free;  // the latter by our view, without our own pool
  absl::Time retry_after;
  Purpose purpose;
  std::optional<uint32_t> coming = {};  // the holder is computing the prefix, and has so many blocks of it
};
// Advice. Answer with StartMove, then FinishMove; or with RefuseMove.
struct MoveWanted {
  uint64_t plan_id;
  RequestId request;
  uint32_t blocks;
  InstanceId to;
};
// Advice: whoever reads the prefix of that name elsewhere brings it here.
struct CopyWanted {
  uint64_t name;
};
// The creditor is gone or cannot be reached, and the KV in the loan with it. Never name the loan again.
struct LoanLost {
  Loan loan;
};
// The creditor wants its blocks back. Do without the loan, then Repay it; or, if that is allowed,
// DeclineRecall. Until then it may be used.
struct RecallWanted {
  Loan loan;
  absl::Time deadline;  // after that the creditor ends it
  bool may_decline;
};
// This process belongs to the cluster no more: its requests run elsewhere. Forget them, then Restart; or,
// where its place was given to another process, end.
struct FencedOut {
  Incarnation next;
  bool taken = false;
};

class RManager {
 public:
  using Event =
      std::variant<Borrowed, BorrowRefused, MoveWanted, CopyWanted, LoanLost, RecallWanted, FencedOut>;
  struct Counters {
    // As creditor: granted = repaid + lost + active.
    uint64_t granted = 0, refused = 0, repaid = 0, lost = 0, withdrawn = 0, expired = 0;
    uint64_t recalled = 0, overdue = 0;  // called back; of these, not repaid in time
    uint64_t guard_recalls = 0;          // times that attention for others was too much
    uint32_t lent = 0, lent_max = 0;     // blocks
    uint64_t prefixes_granted = 0;       // of granted, loans of prefixes
    uint32_t prefix_lent = 0;            // references to cached blocks
    // As debtor.
    uint64_t borrow_refused = 0;
    uint32_t borrowed = 0, borrowed_max = 0;  // blocks
    uint64_t recalls_declined = 0;
    uint64_t stale = 0, malformed = 0;  // messages dropped
  };

  RManager(const RManagerOptions& options, KvPool* pool);

  void Handle(int from, const messages::ControlMessage& message, absl::Time now);
  void Tick(absl::Time now);
  std::vector<Outgoing> TakeOutgoing() { return outbox_.Take(); }
  std::vector<Event> TakeEvents();
  // When Tick has something to do next; in the past when it is overdue.
  absl::Time NextDeadline() const;

  // Debtor. The answer comes as an event with the ticket: Borrowed with all blocks, maybe split over several
  // creditors, or BorrowRefused. `only_from` names the one creditor to ask. REQUIRES: blocks > 0.
  uint64_t Borrow(RequestId request, uint32_t blocks, Purpose purpose, absl::Time now,
                  std::optional<InstanceId> only_from = {});
  // To read, at `holder`, the prefix that `tokens` are, full blocks of them. The loan has its KV in all its
  // slots already. REQUIRES: tokens.size() == blocks * block_tokens of both.
  uint64_t BorrowPrefix(RequestId request, InstanceId holder, absl::string_view salt,
                        absl::Span<const int32_t> tokens, uint32_t blocks, absl::Time now);
  // What others hold over of the request, whose home is lost, as far as its blocks are those that `names`
  // names (kvpool/block_hash.h). Each answer is an event: Borrowed with `adopted`, or BorrowRefused.
  // REQUIRES: names.
  std::vector<uint64_t> Adopt(RequestId request, const LostHome& lost, const std::vector<uint64_t>& names,
                              absl::Time now);
  // What is held over here of it; the caller has the pool's references from now on.
  std::vector<HeldOver::Block> AdoptOwn(RequestId request, absl::Span<const uint64_t> names) {
    return lent_.AdoptOwn(request, names);
  }
  // Blocks of the sequence lie in consecutive slots from `first_slot` on: its creditor is told.
  void TellStored(LoanId loan, uint32_t first_slot, absl::Span<const SlotContent> contents) {
    borrowed_.TellStored(loan, first_slot, contents);
  }
  void CancelBorrow(uint64_t ticket, absl::Time now);  // no event follows
  // From now on the loan must not be used. Nothing happens to one that is lost or repaid.
  void Repay(LoanId loan, absl::Time now);
  // From now on other requests read what lies in it too: RepayAll leaves it to Repay. REQUIRES: in use.
  void ShareLoan(LoanId loan) { borrowed_.Share(loan); }
  // Every loan of the request, and borrowings under way, for which no event follows; also when there are
  // none. Call it when a request ends or is preempted.
  void RepayAll(RequestId request, absl::Time now);

  // A move, step by step. StartMove borrows at the destination; BorrowRefused for its ticket ends the move.
  // Returns nullopt when the plan is not open (any more). `blocks`: so many instead of those advised.
  std::optional<uint64_t> StartMove(uint64_t plan_id, absl::Time now, std::optional<uint32_t> blocks = {});
  void FinishMove(uint64_t plan_id, uint32_t blocks_moved);
  void RefuseMove(uint64_t plan_id) { FinishMove(plan_id, 0); }

  // Nothing speaks against asking that instance.
  bool MayAsk(InstanceId peer, absl::Time now) const {
    const uint32_t i = Value(peer);
    return peer != options_.self && i < incarnations_.size() && !Unreachable(static_cast<int>(i), now) &&
           (incarnations_[i] == 0 || incarnations_[i] > lost_[i]);
  }
  // Whether somebody here is about to give the cache all blocks that `tokens` fill, under that salt.
  using PrefixComes = std::function<bool(absl::string_view salt, absl::Span<const int32_t> tokens)>;
  // The engine's cache, which others may read; null: none. Both outlive the manager's last call with them.
  void SetPrefixes(PrefixTree* prefixes, PrefixComes comes = {}) {
    lent_.set_prefixes(prefixes);
    prefix_comes_ = std::move(comes);
  }
  // Creditor. Any thread; the snapshot holds what it shows.
  std::shared_ptr<const HostedLoans> hosted() const { return lent_.hosted(); }
  std::vector<std::shared_ptr<const LoanSlots>> lent_slots() const { return lent_.slots(); }
  std::vector<BlockId> held_over() const { return lent_.held_over().blocks(); }
  uint32_t lendable_now() const { return lent_.lendable(); }
  // Seconds since the start: computed in own steps, and of these in steps at whose end a query lacked credit
  // (distattn/service_budget.h). Before Tick.
  void SetService(double own_seconds, double starved_seconds) {
    own_seconds_ = own_seconds, starved_seconds_ = starved_seconds;
  }

  void DeclineRecall(
      LoanId loan);  // after RecallWanted with may_decline; nothing happens to one that is lost

  // The process is gone for good, as the members' list says: its loans here end, ours there are lost
  // (events).
  void PeerLost(int peer, absl::Time now);
  // The connection to the peer broke, or it does not answer: our loans there are lost (events). It may be
  // alive, so they are repaid; nothing is borrowed from it until it is heard of again, or for
  // `unreachable_for`.
  void PeerUnreachable(int peer, absl::Time now);
  // Its creditor does not know the loan (any more): it is lost (event).
  void LoanRefused(LoanId loan, absl::Time now);
  // This worker is about to leave: it lends nothing more, calls back what it has lent, and tells so.
  void Drain(absl::Time deadline, absl::Time now);
  bool draining() const { return lent_.draining(); }
  void SayLeft();  // to gManager
  // After FencedOut: as a new process, with no loans. REQUIRES: the engine has forgotten its requests.
  void Restart(Incarnation next);

  void SetLoad(const Load& load);
  // False while an older request has the claim.
  bool MayAdmit(RequestId request) const;
  // The same for a request that needs no loan. Short requests flow past a claim as long as all of this home's
  // requests younger than it hold, with this one, no more than the home's share of what the claim leaves:
  // `younger_blocks` is what those hold now, `blocks` what this one needs.
  bool MayAdmitLocally(RequestId request, uint32_t blocks, uint32_t younger_blocks) const;
  // No older unfinished request is known anywhere: this one may wait for growth while it holds memory, and is
  // never preempted.
  bool IsOldest(RequestId request) const;
  const ClusterFacts& view() const { return facts_; }
  // What one request at home here can hold: this pool and what all who belong or may come back would lend.
  // 0: the members' pools are not known.
  uint32_t reachable_blocks() const;
  bool knows_of_losses() const;  // some process of another instance has been lost
  Counters counters() const;
  const std::map<LoanId, Loan>& borrowed() const { return borrowed_.loans(); }
  bool settled() const { return borrowed_.idle(); }  // no borrowing or repayment is under way
  absl::Status CheckInvariants() const;

 private:
  struct OpenMove {
    RequestId request;
    uint32_t blocks;
    InstanceId to;
    std::optional<uint64_t> ticket;
  };
  using PlacementKey = std::pair<RequestId, uint32_t>;  // request, host
  struct PlacedBlocks {                                 // as in messages::Placement
    uint32_t blocks = 0, movable = 0, shared = 0, readers = 0;
    bool operator==(const PlacedBlocks&) const = default;
  };
  using Placements = std::map<PlacementKey, PlacedBlocks>;

  bool AcceptIncarnation(int from, uint64_t incarnation, absl::Time now);
  bool AcceptGManager(uint64_t incarnation);
  bool Unreachable(int peer, absl::Time now) const { return now < unreachable_until_[peer]; }
  void DropLoansFrom(int peer, bool process_gone, absl::Time now);
  void FollowMembers(const messages::ClusterView& view, absl::Time now);
  void OnFenced(const messages::Fenced& fenced);
  void OnRecall(InstanceId from, const messages::Recall& recall, absl::Time now);
  void RecallForOwnLoad(absl::Time now);
  void RecallForGuard(absl::Time now);
  void SendRecalls(absl::Time now);
  bool GuardBears(uint32_t blocks, absl::Time now) const;  // more, read for younger requests
  uint32_t LendableToYounger(absl::Time now) const;        // than all own running requests
  void UpdateLendable(int peer, uint32_t lendable, uint32_t lendable_older);
  void OnTry(InstanceId from, const messages::TryMoveKv& ask, absl::Time now);
  bool IsLost(const LostHome& process) const;
  void OnStored(InstanceId from, const messages::SpanStored& stored);
  void OnActivate(InstanceId from, const messages::ActivateLoan& activate);
  void OnRepay(InstanceId from, const messages::Repay& repay, absl::Time now);
  void OnView(const messages::ClusterView& view, absl::Time now);
  void OnMove(const messages::MoveKv& move);
  Placements CurrentPlacements() const;
  void SendHeartbeat(absl::Time now);
  void TellPrefixes(messages::Heartbeat* beat);
  void HurryHeartbeat();

  RManagerOptions options_;
  KvPool* pool_;
  Outbox outbox_;
  LentLedger lent_;
  PrefixComes prefix_comes_;
  BorrowedLedger borrowed_;
  ClusterFacts facts_;
  Load load_;
  CreditorGuard guard_;
  double own_seconds_ = 0, starved_seconds_ = 0;
  std::vector<Event> events_;
  Incarnation incarnation_;
  bool fenced_ = false;  // FencedOut was told, Restart has not been called
  uint64_t gmanager_incarnation_ = 0;
  std::vector<uint64_t> incarnations_;         // newest seen, by rank; 0 = none
  std::vector<uint64_t> lost_;                 // newest known to be lost, by rank
  std::vector<absl::Time> unreachable_until_;  // by rank
  uint64_t members_number_ = 0;
  std::vector<uint32_t>
      member_blocks_;  // pools of those who belong or may come back, by rank; 0: none, or unknown
  std::map<uint64_t, OpenMove> moves_;  // by plan id
  uint64_t newest_plan_ = 0;

  absl::Time next_heartbeat_ = absl::InfinitePast(), last_heartbeat_ = absl::InfinitePast();
  uint64_t heartbeat_seq_ = 0;
  bool full_heartbeat_ = true;
  Placements reported_;
  std::map<uint64_t, Load::HotPrefix> reported_prefixes_;
  uint32_t reported_lendable_ = 0;

  uint64_t guard_recalls_ = 0, refused_ = 0, stale_ = 0, malformed_ = 0, declined_ = 0;
};

}  // namespace lombard
