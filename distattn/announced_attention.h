// The creditor's arithmetic for exchanges between GPUs: rows come from the debtor's GPU, their states go back
// there, for all layers without the host (gpu_exchange.h).
#pragma once

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "distattn/span_attention.h"
#include "fabric/collectives.h"

namespace lombard {

// One exchange at a time, of the service thread. The destructor waits for the streams; abort the pairs
// before.
class AnnouncedAttention {
 public:
  virtual ~AnnouncedAttention() = default;
  // All that can fail before the answer leaves: memory, and the step's tables. The blocks must stay as they
  // are until the exchange has ended. Windows are the model's, those of the queries are not looked at.
  // REQUIRES: the exchange before has ended.
  virtual absl::Status Prepare(absl::Span<const SpanQuery> queries) = 0;
  // All layers of what was prepared. kUnavailable: the pair was closed; what was submitted ends by itself.
  virtual absl::Status Submit(Collectives& collectives, LoanPair pair) = 0;
  // Nothing of it is in the streams any more.
  virtual absl::StatusOr<bool> Ended() = 0;
  // Of a layer of what was prepared.
  virtual SpanAttention::Counts counts() const = 0;
  // The GPU's time for what has ended, for the guard: that of one layer, times the layers.
  virtual double seconds() const = 0;
  // To the debtor, for all layers.
  virtual uint64_t state_bytes() const = 0;
};

}  // namespace lombard
