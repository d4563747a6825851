// The loan protocol. Messages: fabric/messages/control.proto. This text is the specification; the code
// follows it.
//
// ROLES
//   debtor    home of a request; borrows blocks of another worker's pool. Its block table names the creditor.
//   creditor  owns the blocks. Its ledger names the debtor. It alone decides what it lends; its ledger is the
//             truth.
//   gManager  collects heartbeats, publishes the cluster view with the claim, advises moves. It decides
//             nothing about memory.
// Every worker is debtor and creditor at once. Everyone acts on views that may be stale; a refusal is the
// ordinary answer to that.
//
// STATES OF A LOAN AT THE CREDITOR
//   state      event                            next       what the creditor does
//   offered    TryMoveKv, may lend              reserved   allocates, starts the lease, answers with the loan
//   offered    TryMoveKv, may not               -          answers without a loan, and what it could lend now
//   reserved   the same TryMoveKv again         reserved   answers with the same loan; the lease goes on
//   reserved   ActivateLoan                     active     publishes the slots to service, then confirms
//   reserved   Repay                            repaid     frees, answers RepayAck
//   reserved   lease over (creditor's clock)    expired    frees, new ledger epoch
//   active     TryMoveKv or ActivateLoan again  active     answers as before
//   active     Repay                            repaid     withdraws the slots, answers RepayAck; the blocks
//                                                          are free when service has let go of them
//   any        debtor lost, or restarted        expired    withdraws, frees, new ledger epoch
//   repaid and expired loans are forgotten; a loan id is never used again:
//              ActivateLoan                     -          answers not active
//              Repay                            -          answers RepayAck (the first may have been lost)
//
// A creditor lends while (free - reserve) and (lent_max - lent) cover the request, first come, first served;
// and, for admissions and moves, only if no older request has the claim. Growth of a running request is
// served in spite of a claim: what runs must be able to end.
//
// THE DEBTOR borrows all or nothing. It asks one or several creditors (most room first in its view), waits
// for every answer, then activates every loan, then waits for every confirmation; only then may the blocks
// be used. The first refusal, not-active answer or missed reply deadline gives everything back, and the
// request backs off. So nobody holds a part while waiting for the rest for longer than two reply deadlines,
// and a loan in use was confirmed by its creditor: it cannot expire under a query.
//   missing answer    TryMoveKv, ActivateLoan and Repay are repeated every `retry`; all are idempotent
//   unexpected grant  (given up meanwhile, or a copy) is repaid at once; if that is lost, the lease ends it
//   Repay             is repeated until RepayAck; the debtor does not use the loan from the first Repay on
//
// WHO YIELDS: the smaller (arrival, number) is older. gManager publishes as the claim the oldest request
// that has been blocked for longer than `claim_after`. While it stands, younger requests get no loan for
// admission or moves, and are admitted to their own home's pool only within the claim's spare: what the
// cluster has beyond the claim's whole need, shared out by pool size. Once everything older has ended, the
// claim therefore fits beside the younger ones, so short requests flow past a waiting giant without starving
// it. Memory comes back because what runs ends, or is preempted by its home when it cannot grow. A home must
// not keep a running request waiting for growth while it holds memory, unless no older unfinished request is
// known (RManager::IsOldest): it preempts instead. So the oldest blocked request always gets through, then
// the next.
//
// EPOCHS AND COPIES
//   incarnation  in every message; a smaller one than known is dropped; a larger one means that the peer
//                restarted and that loans with the earlier process are lost
//   loan         (id, epoch): id is (creditor << 40 | counter); epoch is the creditor's ledger epoch at the
//                grant, which starts at incarnation << 32 and grows whenever a loan ends without its debtor's
//                Repay. Who names a loan names both, and must be its debtor; anything else finds no loan
//   view         has an epoch of its own; an older view is dropped
//   heartbeat    has a sequence number; placements are changes since the one before. A gap is answered by
//                need_full
//   plan_id      grows; an older MoveKv than the newest seen is dropped
//
// LEASES AND DEADLINES are durations on the clock of whoever waits: no time stamp crosses the wire. An
// active loan has no timer: its end is Repay, or the loss of the debtor as decided by the membership.
// Silence of a worker is gManager's to notice.
//
// MOVES: gManager sends MoveKv (advice) to the home. The home's engine refuses, or borrows at the named
// destination (TryMoveKv), copies, flips its table between two steps, and reports MoveKvDone. A refused one
// is dropped until the next plan.
#pragma once

#include <cstdint>

#include "base/ids.h"

namespace lombard {

enum class LoanState : uint8_t { kReserved, kActive };

constexpr LoanId MakeLoanId(InstanceId creditor, uint64_t counter) {
  return LoanId{(uint64_t{Value(creditor)} << 40) | counter};
}
constexpr InstanceId CreditorOf(LoanId id) { return InstanceId{static_cast<uint32_t>(Value(id) >> 40)}; }

}  // namespace lombard
