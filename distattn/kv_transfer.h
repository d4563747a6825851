// KV of full blocks on its way into the slots of a loan, or back.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "base/ids.h"

namespace lombard {

// All layers of local blocks[i] and of slot first_slot + i of the loan. What has the same number is one
// transfer.
struct KvSlots {
  uint64_t transfer = 0;
  int creditor = 0;  // rank
  LoanId loan{};
  uint64_t epoch = 0;
  uint32_t first_slot = 0;
  std::vector<BlockId> blocks;  // local
};
using KvSend = KvSlots;   // from here to the slots
using KvFetch = KvSlots;  // from the slots to here

// What became of a transfer so far.
struct KvTransfer {
  uint32_t sent = 0, stored = 0;  // messages; stored at the far end of a send, here of a fetch
  absl::Status status;            // first refusal or loss
  bool done() const { return sent == stored || !status.ok(); }
};

}  // namespace lombard
