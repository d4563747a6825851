// Mistakes that the simulation plants to prove that it would find them (docs/simulation.md). Set by its own
// proof, and nowhere else; kNone everywhere in production.
#pragma once

#include <cstdint>

namespace lombard {

enum class PlantedBug : uint8_t {
  kNone,
  // Debtor.
  kFlipBeforeStored,  // the table names the creditor before it has the KV
  kUseUnconfirmed,    // loans are used before their creditors have confirmed them
  kUseRepaid,         // a loan called back is repaid, and used on
  kUseLoansOfLost,    // a lost creditor's loans are still used
  kKeepParts,         // a failed borrowing does not give back what it got
  kForgetRepay,       // Repay is sent once
  // Creditor.
  kDoubleGrant,      // a repeated TryMoveKv reserves again
  kForgetEpoch,      // loans are found by id alone, and ids are taken again
  kNoExpiry,         // reservations are kept for ever
  kFreeWhileRead,    // blocks of an ended loan return to the pool while service reads them
  kFreeOnRecall,     // a recalled loan ends without waiting for its debtor
  kKeepLoansOfLost,  // a lost debtor's loans stay
  kIgnoreGuard,      // service attends without credit
  kAdoptByPlace,     // held-over blocks are adopted by their place alone, whatever they hold
  kAdoptTwice,       // what was adopted is still held over
  kAdoptUnheard,     // a loan is ended because the new home says that its debtor is lost
  // Membership and front door.
  kIgnoreFence,       // a fenced process goes on
  kTokensOfAnyone,    // tokens are taken from any process
  kReplayFromPrompt,  // a replayed request forgets what was delivered
  kForgetHomeless,    // a request that found no home is never given to one
  // Prefixes read by other ranks.
  kEvictWhatOthersRead,  // one that is lent counts as read by nobody
  // Joining and draining.
  kJoinReusesNumber,    // a process that joins gets the incarnation of the one before it
  kGrantWhileDraining,  // a draining worker still lends
  kGiveToDraining,      // a draining worker still gets requests
  kLeaveWithLoans,      // a draining worker leaves before its loans have moved
  // Prefixes lent whole.
  kRepayWhatOthersRead,  // the first of its readers to end repays the loan
};
constexpr int kPlantedBugs = 27;  // kNone included

}  // namespace lombard
