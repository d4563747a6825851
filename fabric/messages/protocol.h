// The loan protocol between the workers of a job and its global manager. This text is the specification; the
// code follows it. Messages: fabric/messages/control.proto.
//
// ROLES
//   debtor    home of a request; borrows blocks of another worker's pool. Its block table names the creditor.
//   creditor  owns the blocks. Its ledger names the debtor. It alone decides what it lends; its ledger is the
//             truth.
//   gManager  says who belongs to the cluster, collects heartbeats, publishes the view with the claim,
//             advises moves. It decides nothing about memory.
//
// Every worker is debtor and creditor at once. Everyone acts on views that may be stale; a refusal is the
// ordinary answer to that. The subject of a loan is blocks for one request, or a prefix that the creditor's
// cache has (PREFIXES). Within a loan the holder of the blocks changes only by the debtor's decision, between
// two of its steps.
//
// MEMBERSHIP. A process is (instance, incarnation). gManager alone issues the list of members; each change
// has a number of its own, and the list travels in every cluster view. There are as many instances as the job
// may have at most; the first ones are expected from the start, the others vacant.
//
//   state        event at gManager                               becomes
//   vacant,      Join of a process that rank 0 has let in        joining: it is granted the instance and a
//   lost, left                                                   new incarnation: the largest known + 1, or
//                                                                + 2 after one that is lost, which may have
//                                                                taken the next
//   joining      ping of that process                            alive
//   joining      none within join_wait                           lost
//   expected     ping or heartbeat of whoever is first           alive
//   alive        a heartbeat that says draining                  draining
//   draining     Left                                            left, answered by Leave
//   alive, draining  no ping for dead_after                      lost
//   alive, draining  the connection to it broke                  lost
//   alive        ping of another process, same incarnation       lost: a restarted process took its own
//                                                                number for granted (of an instance nobody
//                                                                joined)
//   lost, alive  ping with an incarnation larger than known      alive (of an instance nobody joined, or by
//                                                                the process that it was granted to)
//   any          anything from a lost or older process           is answered by Fenced, which names the
//                                                                largest incarnation known
//   vacant, or granted to another process                        is answered by Fenced with `taken`
//
// Who is lost stays lost: there is no way back but as a new incarnation. A process that reads Fenced, or a
// list in which it is lost, forgets every loan and request, takes the next number and reports anew; it sends
// nothing but pings and heartbeats until a list shows it alive. If its place was taken, it ends. Fenced names
// the process that it is meant for: the one that has come in its place is not concerned. Everybody else drops
// the messages of a process from the moment on that they know it to be lost or left, ends its loans here (new
// ledger epoch) and treats its loans there as lost. So false suspicion costs work, never a result: what a
// fenced process still computes is refused by epoch at its creditors and by incarnation at the front door.
//
// Joining: the words before the list are those of fabric/reception.h and fabric/join_desk.h. The process
// proves the cluster key, names protocol version and fingerprint, and gets instance, incarnation and the
// others' addresses; it connects to them (fabric/ucx/link.h) and pings. From the first ping on requests and
// loans come.
//
// Draining: a worker that is told to leave says so in its heartbeats. It grants nothing, not even what it has
// reserved, and recalls every active loan; no older request may decline that. The front door gives it nothing
// more. Its waiting requests go back to the front door at once (HandBack), its running ones when half of
// `drain_wait` is over; they go on elsewhere with the tokens delivered so far. When nothing runs, nothing is
// lent and every repayment is confirmed, or when drain_wait is over, it says Left, once, and ends after
// Leave, or without it after a second. What is still lent or borrowed then is treated as of a lost process.
//
// A worker that cannot reach a peer (the connection is broken, a query is not answered in time, or nothing
// has been heard of it for twice dead_after) does not declare it dead. As debtor it treats its loans there as
// lost, goes on repaying them until the peer answers or is lost, reports the peer as unreachable, and borrows
// nothing from it until it is heard of again or `unreachable_for` is over: somebody must try. As creditor it
// waits: the debtor repays when it can, or the members' list ends the loan.
//
// A worker whose connection to gManager breaks makes it again, and may find itself fenced. It ends when
// gManager's process is gone, when the connection has been broken for dead_after, or after a silence of ten
// times that: it may be the one that is cut off.
//
// STATES OF A LOAN AT THE CREDITOR
//   state      event                            next       what the creditor does
//   offered    TryMoveKv, may lend              reserved   allocates, starts the lease, answers with the loan
//   offered    TryMoveKv, may not, or drains    -          answers without a loan, and what it could lend now
//   reserved   the same TryMoveKv again         reserved   answers with the same loan; the lease goes on
//   reserved   ActivateLoan                     active     publishes the slots to service, then confirms
//   reserved   Repay                            repaid     frees, answers RepayAck
//   reserved   lease over, or it drains         expired    frees, new ledger epoch
//   active     TryMoveKv or ActivateLoan again  active     answers as before
//   active     own load wants it, or it drains  recalled   sends Recall, repeats it every `retry`
//   active, recalled  Repay                     repaid     withdraws the slots, answers RepayAck; the blocks
//                                                          are free when service has let go of them
//   recalled   RecallDeclined                   active     asks for this loan no more for `recall_again`
//   recalled   recall deadline over             expired    withdraws, frees, new ledger epoch
//   active     queries lack credit too long     recalled   the same (GUARD)
//   active     debtor lost, or restarted        held over  withdraws, new ledger epoch (A DEBTOR LOST)
//   other      debtor lost, or restarted        expired    withdraws, frees, new ledger epoch
//   held over  TryMoveKv to adopt it            reserved   a new loan of the new home; frees the rest
//   held over  adopt_within over, memory wanted -          frees
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
//
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
// RECALL. Own requests come first: when one of the creditor's requests has waited for memory for longer than
// `recall_after`, and it would fit here without what is lent, the creditor recalls active loans, those of the
// youngest requests first, until they cover what it lacks. The debtor moves the blocks elsewhere, computes
// them again at home, or preempts the request, and repays before the deadline; it goes on using the loan
// until then. A request that is older than the one the memory is wanted for may keep it: when there is
// nowhere to move to, the debtor declines. So the oldest request is never preempted for a younger one.
// Without an answer within `recall_deadline` of the creditor's clock the loan expires: later queries are
// refused, and the debtor treats it as lost.
//
// GUARD. Attention served to others may slow the creditor's own requests by the share `guard`, not more.
//   duty     While own requests are computed, service attends on credit alone (distattn/service_budget.h): an
//            own step that computed for s seconds gives guard * s; what is not used before the next one ends
//            is void, what was taken beyond it is owed. A slice once begun is finished. While no own request
//            runs, and while the own step waits for other workers, service is free: so rings of loans go on.
//            KV that comes or goes is not held up, so a recall never waits for credit; its time is charged. A
//            query that has to wait is answered late and never refused; the debtor's reply deadline begins
//            anew with every state that arrives.
//   lending  A creditor whose queries lacked credit in most of its own steps for `guard_after` has lent too
//            much: it recalls the loans of the youngest request, and those of the next one when that is still
//            so another `guard_after` later. Until it has been better for `guard_again`, or no own request
//            runs, it lends no more. Nor does it lend what would need more than the guard by its measured
//            rates, if each debtor's step reads all that is lent once in an own step.
//   oldest   A request that is older than all running ones of the creditor is lent to in spite of the guard,
//            and may decline its recall when there is nowhere to go: it is served within the duty, so slower,
//            and still gets through. The view tells for each creditor what it would lend to such a request,
//            and for whose sake others get less. Growth is served in spite of the guard, as of a claim.
//
// A LOAN LOST, at the debtor: the creditor is lost or unreachable, or refused a query or write because it
// does not know (id, epoch). The home forgets the span and computes its tokens again against the KV that is
// left. No step that used the loan commits.
//
// A DEBTOR LOST: its requests go to new homes, which adopt what creditors still have of them.
//   names       Once blocks of a request are stored in slots and the table names them there, the debtor tells
//               the creditor what they hold (SpanStored): which blocks of the sequence, and for each its
//               name, a hash of model, KV format, salt and every token up to its end (kvpool/block_hash.h). A
//               slot is written once, so a name once told stays true.
//   held over   When the debtor is lost, the creditor ends the loan (new ledger epoch, slots withdrawn), but
//               keeps the named blocks of an active one for `adopt_within` of its clock. Nobody can query or
//               write them. They go first when memory is wanted here: by an own request, for any other loan,
//               or at the end of the job.
//   adoption    The front door's replay names the lost process. The new home asks each creditor, itself
//               first, before it admits the request: TryMoveKv with purpose ADOPT, the lost process, and the
//               names of all full blocks of the tokens it was given, except for the last token, which is
//               computed in any case. The creditor grants a new loan, id and epoch, of exactly the blocks
//               whose place and name agree, and says which they are; the rest of what it held over for the
//               request is freed. It goes on as any loan: lease, ActivateLoan. So a span is adopted once, and
//               one that holds other tokens (generated, but never delivered) is not adopted at all.
//   too early   A creditor that has active loans of the named process has not heard of its loss yet: it does
//               not answer, and is asked again after `retry`.
//   the rest    What is not adopted is computed as after a lost loan. When the memory for it is not at hand,
//               what was adopted is given back, and the request waits with nothing, like any other.
//
// EPOCHS AND COPIES
//   incarnation  in every message; a smaller one than known, or one known to be lost, is dropped; a larger
//                one means that the peer restarted and that loans with the earlier process are lost
//   loan         (id, epoch): id is (creditor << 40 | counter); epoch is the creditor's ledger epoch at the
//                grant, which starts at incarnation << 32 and grows whenever a loan ends without its debtor's
//                Repay. Who names a loan names both, and must be its debtor; anything else finds no loan
//   view         has an epoch of its own; an older view is dropped
//   heartbeat    has a sequence number; placements are changes since the one before. A gap is answered by
//                need_full
//   plan_id      grows; an older MoveKv than the newest seen is dropped
//
// LEASES AND DEADLINES are durations on the clock of whoever waits: no time stamp crosses the wire. An
// active loan that is not recalled has no timer: its end is Repay, or the loss of the debtor as decided by
// the membership. Silence of a worker is gManager's to notice.
//
// REQUESTS AND TOKENS. The front door, beside gManager, gives each request to one process and notes
// its incarnation. Tokens count only from that process and in order of their index; all others are dropped
// and counted. When the process is lost, the request goes to another one with the tokens delivered so far,
// which generates the rest. So every token is delivered exactly once, whoever computes it how often.
//
// PREFIXES. The subject of a loan may be the beginning of a request that the creditor's prefix cache has:
// full, immutable blocks, in the slots from token 0 on. The front door, which knows what it sent where, names
// an instance that likely has it; the home asks that one with TryMoveKv of PURPOSE_PREFIX, salt and tokens.
// The creditor compares the tokens under that salt, and grants all the blocks or none. States, messages,
// deadlines and recalls are those of every loan, but:
//
//   reserved    the blocks are not allocated but read: the loan is one more reader of theirs, so they cannot
//               be evicted until it has ended and service has let go of them. Each reader has a loan of its
//               own, so the loans of a prefix are its count of references, here and elsewhere. They are the
//               creditor's own blocks, hence no part of lent_max; its reserve must stay free beside them
//   KvWrite     is refused; a query or KvRead is answered. Queries of all the debtor's readers travel in one
//               message per layer; rows that see all of the same blocks are one product, also those of
//               several debtors whose messages wait at the same time
//   Repay       the loan reads no longer; the blocks stay cached as long as they are worth it
//   coming      not granted, but a request that runs there, or is about to, computes the prefix: the reply
//               says so, and how many blocks there are. The home holds nothing and asks again after the
//               waiting time of a refusal, until nothing has been added for `prefix_patience`: so a prefix
//               that is wanted at several instances at once is computed at one. Whoever waits so is not
//               itself counted on, so nobody waits in a ring
//   refused     for any other reason: the home computes the tokens itself, and asks no more for this request
// A home whose rows have cost more bytes than the KV has (distattn/prefix_copy.h) fetches the whole prefix
// with one of the loans, as when a loan is taken home. It enters the home's cache; then each reader's table
// flips to it between two steps, and repays.
//
// HOT PREFIXES. Heartbeats tell the few prefixes that most rows of the sender have attended to, by name,
// those that it reads elsewhere and, of its own, those that more than one reads. gManager sees all rows of a
// prefix, not those of one home alone. Where they make a copy worth its bytes (gmanager/prefix_planner.h) it
// sends CopyPrefix to a home that reads the prefix elsewhere. That is advice: the home copies it as above, at
// once, or drops it when nobody there reads it elsewhere any more, memory is short, or a claim stands. There
// is no answer: the next heartbeats show it. What is not copied stays lent.
//
// MOVES: gManager sends MoveKv (advice) to the home. The home's engine refuses, or borrows at the named
// destination (TryMoveKv), copies, flips its table between two steps, and reports MoveKvDone. A refused one
// is dropped until the next plan.
//
// A SHARED PREFIX MOVES WHOLE. Blocks that several requests of a home read move together or stay, and go
// before what one request has alone: the creditor attends to them once for all the readers.
//   advice    The placement of the oldest reader tells how long the prefix is and how many read it; gManager
//             plans it first. A MoveKv of at least so many blocks for that request means the prefix.
//   loan      one, of exactly the prefix, block i in slot i. At the creditor it is a loan of blocks for the
//             oldest reader like any other. The debtor alone knows that others read it too: all their rows
//             travel in one message per layer, and are one product since they see all of the same blocks.
//   flip      The home's readers read at home until all is stored; then all their tables name the loan between
//             the same two steps. When by then one of them reads a part of it only, or the oldest has ended,
//             the loan is repaid and nothing has moved. Whoever comes later with the same tokens joins.
//   end       The last reader to end repays. The loan keeps the name of the request that it was borrowed for,
//             also after the end of that; a recall is declined only while that request or an older one reads
//             it. Called back, one reader fetches it for all, or the home's cache has it yet. Lost, each
//             reader computes it again.
#pragma once

#include <cstdint>

#include "base/ids.h"

namespace lombard {

// Of this specification and its messages. Ranks of different versions do not work together.
constexpr uint32_t kProtocolVersion = 2;

enum class LoanState : uint8_t { kReserved, kActive, kRecalled };

constexpr LoanId MakeLoanId(InstanceId creditor, uint64_t counter) {
  return LoanId{(uint64_t{Value(creditor)} << 40) | counter};
}
constexpr InstanceId CreditorOf(LoanId id) { return InstanceId{static_cast<uint32_t>(Value(id) >> 40)}; }

}  // namespace lombard
