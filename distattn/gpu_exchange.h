// One exchange between GPUs (fabric/collectives.h) as work in streams. The creditor submits all layers at
// once and its host is not needed again; the debtor's main stream attends its own keys while queries travel.
// What the payloads hold is the caller's: the forms of distattn/wire.h without their headers.
//
//   debtor, per layer                          creditor, once
//     queries into the parts' buffers            SubmitCreditorExchange(..., attend)
//     exchange.Begin(main)
//     local attention on main
//     exchange.End(main)
//     merge on main
#pragma once

#include <cstdint>
#include <set>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "base/device/gpu_stream.h"
#include "fabric/collectives.h"

namespace lombard {

// One layer's bytes between this rank and another, the same for every layer. Device memory of the caller,
// used again by the next layer.
struct GpuExchangePart {
  int other = 0;  // rank
  void* query = nullptr;
  uint64_t query_bytes = 0;
  void* states = nullptr;
  uint64_t state_bytes = 0;
};

// attend(layer) enqueues into `side` what makes states of queries. Submits all layers even where attend
// fails, because the debtor waits for them; the first error is returned, kUnavailable when the pair was
// closed (then nothing more is submitted). The exchange has ended when `side` has passed.
absl::Status SubmitCreditorExchange(Collectives& collectives, LoanPair pair, const GpuExchangePart& part,
                                    int layers, GpuStream& side,
                                    absl::FunctionRef<absl::Status(int layer)> attend);

// The debtor's half of one exchange, with the creditors that have said yes. One thread.
class GpuDebtorExchange {
 public:
  // parts: by rank, ascending. `side` is this exchange's alone until its end, and is borrowed, as
  // `collectives`.
  static absl::StatusOr<GpuDebtorExchange> Create(Collectives* collectives, int rank, int layers,
                                                  std::vector<GpuExchangePart> parts, GpuStream* side);

  // The next layer: what is in `main` now writes the queries. REQUIRES: alternates with End, at most `layers`
  // times.
  absl::Status Begin(GpuStream& main);
  // What comes into `main` from now on sees the states, but those of lost().
  absl::Status End(GpuStream& main);
  // The step is dropped: carries out the layers that are left, with rubbish, because they were promised.
  absl::Status KeepPromise(GpuStream& main);

  // Creditors whose pair was closed; from then on their states are rubbish. The exchange goes on with the
  // others.
  const std::set<int>& lost() const { return lost_; }

 private:
  GpuDebtorExchange(Collectives* collectives, int rank, int layers, std::vector<GpuExchangePart> parts,
                    GpuStream* side, GpuEvent ready, GpuEvent arrived);
  absl::Status NoteLoss(const GpuExchangePart& part, absl::Status status);

  Collectives* collectives_;
  int rank_, layers_left_;
  std::vector<GpuExchangePart> parts_;
  GpuStream* side_;
  GpuEvent ready_, arrived_;
  bool begun_ = false;
  std::set<int> lost_;
};

}  // namespace lombard
