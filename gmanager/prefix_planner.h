// Which hot prefixes are copied to which instances: a pure function of what the instances report. Ties go to
// the smaller name and id.
//
// A prefix that requests of an instance read elsewhere is lent as long as that is cheaper: every query row
// and its state travel, n_q (d p + 4 d + 8) bytes a layer, while a copy costs its KV once, 2 n_kv d p bytes a
// key and layer. So a copy pays after keys * kv_bytes / (query_bytes + state_bytes) rows there. An instance
// that counts its own rows has to pay as much in rows before it copies (distattn/prefix_copy.h). Here it is
// known how many rows of everybody have attended to the prefix, and as many more are expected, shared evenly
// by the instances that would have it then. So a hot prefix is copied when it gets its first reader at another
// instance, and what is read once is only lent. A copy once advised counts even when it is gone, so that all
// copies of a prefix together cost no more than the rows that attended to it would have.
//
// A prefix is copied whole; the advice may be refused.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "absl/types/span.h"
#include "base/ids.h"
#include "gmanager/cost_model.h"

namespace lombard {

// A prefix as one instance sees it.
struct PrefixUse {
  uint32_t blocks = 0;   // from token 0 on
  uint32_t readers = 0;  // requests there that read it now
  uint64_t rows = 0;     // of its requests, those that are over too, that attended to it
  bool here = false;     // it lies there; otherwise at another instance
};

struct PrefixState {
  InstanceId id{};
  uint32_t blocks_free = 0;
  std::map<uint64_t, PrefixUse> prefixes;  // by name (kvpool/block_hash.h)
};

struct PrefixCopy {
  uint64_t name = 0;
  InstanceId to{};
  uint32_t blocks = 0;
  bool operator==(const PrefixCopy&) const = default;
};

struct PrefixPlanOptions {
  uint32_t block_tokens = 32;
  WireShape wire;
  double kv_bytes = 0;      // K and V of one token and layer; 0: not known, so nothing is copied
  uint32_t copies_max = 4;  // of one plan, and one of them to an instance; a guess
};

// Rows to come at one instance for which a copy costs no more than they would.
double CopyRows(uint64_t keys, const PrefixPlanOptions& options);

// `advised`: copies of a prefix that were advised so far, by name; absent: none.
std::vector<PrefixCopy> PlanCopies(absl::Span<const PrefixState> states,
                                   const std::map<uint64_t, uint32_t>& advised,
                                   const PrefixPlanOptions& options);

}  // namespace lombard
