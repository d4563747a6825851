// Mistakes that the simulation plants to prove that it would find them (docs/simulation.md). Set by its own
// proof, and nowhere else; kNone everywhere in production.
#pragma once

#include <cstdint>

namespace lombard {

enum class PlantedBug : uint8_t {
  kNone,
  kFlipBeforeStored,  // the table names the creditor before it has the KV
  kForgetEpoch,       // the creditor finds loans by id alone, and takes ids again
  kDoubleGrant,       // a repeated TryMoveKv reserves again
  kForgetRepay,       // Repay is sent once
  kFreeWhileRead,     // repaid blocks return to the pool while service reads them
  kKeepLoansOfLost,   // a lost debtor's loans stay
  kUseLoansOfLost,    // a lost creditor's loans are still used
  kTokensOfAnyone,    // the front door takes tokens from any process
  kReplayFromPrompt,  // a replayed request forgets what was delivered
  kIgnoreFence,       // a fenced process goes on
  kHoldWhileWaiting,  // a refused admission keeps what it got
  kNoExpiry,          // reservations are kept for ever
};
constexpr int kPlantedBugs = 13;  // kNone included

}  // namespace lombard
