// Loans as the engine and the service threads see them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "base/ids.h"

namespace lombard {

struct Loan {
  LoanId id{};
  uint64_t epoch = 0;
  InstanceId creditor{}, debtor{};
  RequestId request;
  uint32_t blocks = 0;  // slots 0 .. blocks-1
  bool prefix = false;  // its subject is a prefix in the creditor's cache: read only, others read it too
  bool shared = false;  // the debtor's: several of its requests read it, not only `request`
};

// At the creditor: where the slots lie. Immutable; slot i of the loan is blocks[i] of the creditor's pool.
struct LoanSlots {
  Loan loan;
  std::vector<BlockId> blocks;
};

// The active loans of a creditor. Immutable: a service thread takes a snapshot and holds it, or a LoanSlots
// of it, while it computes or writes; the blocks of a repaid loan do not return to the pool before that.
struct HostedLoans {
  uint64_t epoch = 0;
  absl::flat_hash_map<LoanId, std::shared_ptr<const LoanSlots>> loans;

  // Null when there is no such loan or the epoch is another: the caller refuses the query.
  std::shared_ptr<const LoanSlots> Find(LoanId id, uint64_t loan_epoch) const {
    const auto it = loans.find(id);
    return it != loans.end() && it->second->loan.epoch == loan_epoch ? it->second : nullptr;
  }
};

enum class Purpose : uint8_t { kAdmission, kGrowth, kMove, kPrefix, kAdopt };

// A process that was a request's home, and is lost.
struct LostHome {
  InstanceId instance{};
  Incarnation incarnation{};
};

// What a slot of a loan holds: this block of the sequence, by its name (kvpool/block_hash.h).
struct SlotContent {
  uint32_t block = 0;
  uint64_t name = 0;
};

// The last cluster view, as far as a worker needs it.
struct ClusterFacts {
  struct Instance {
    bool known = false;
    uint32_t blocks_total = 0, blocks_free = 0, blocks_lent = 0, blocks_borrowed = 0;
    uint32_t lendable = 0;        // now
    uint32_t lendable_older = 0;  // now, to `guarded_for` and older requests, and for growth
    uint32_t lendable_max = 0;    // with an empty pool
    std::optional<RequestId> guarded_for;

    uint32_t LendableTo(RequestId request, bool growth = false) const {
      const bool older = growth || (guarded_for.has_value() && request <= *guarded_for);
      return older ? std::max(lendable, lendable_older) : lendable;
    }
    uint32_t batch = 0, waiting = 0;
  };
  struct Claim {
    RequestId request;
    InstanceId home{};
    uint32_t blocks = 0;  // what it lacks
    uint32_t spare = 0;   // what younger requests of all homes may hold together
  };
  uint64_t epoch = 0;
  std::vector<Instance> instances;  // by instance id
  std::optional<Claim> claim;
  std::optional<RequestId> oldest;  // unfinished, in the cluster

  // Blocks that `home` could ever use: its own pool and what all others would lend. A request that needs more
  // can never run.
  uint64_t CapacityFor(InstanceId home) const {
    uint64_t blocks = 0;
    for (size_t i = 0; i < instances.size(); ++i) {
      blocks += InstanceId(i) == home ? instances[i].blocks_total : instances[i].lendable_max;
    }
    return blocks;
  }
  // This home's part of the claim's spare blocks, by size of its pool; everything without a claim.
  uint32_t SpareFor(InstanceId home) const {
    if (!claim.has_value()) return std::numeric_limits<uint32_t>::max();
    uint64_t total = 0;
    for (const Instance& instance : instances) total += instance.blocks_total;
    if (total == 0) return 0;
    return static_cast<uint32_t>(uint64_t{claim->spare} * instances[Value(home)].blocks_total / total);
  }
  bool complete() const {  // every instance has reported
    for (const Instance& instance : instances) {
      if (!instance.known) return false;
    }
    return true;
  }
};

}  // namespace lombard
