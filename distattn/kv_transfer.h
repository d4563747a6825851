// KV of full blocks on its way into the slots of a loan.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "base/ids.h"

namespace lombard {

// blocks[i], all layers, goes to slot first_slot + i of the loan. Sends of one transfer number are one
// transfer.
struct KvSend {
  uint64_t transfer = 0;
  int creditor = 0;  // rank
  LoanId loan{};
  uint64_t epoch = 0;
  uint32_t first_slot = 0;
  std::vector<BlockId> blocks;  // local, full
};

// What became of a transfer so far.
struct KvTransfer {
  uint32_t sent = 0, stored = 0;  // messages
  absl::Status status;            // first refusal or loss
  bool done() const { return sent == stored || !status.ok(); }
};

}  // namespace lombard
