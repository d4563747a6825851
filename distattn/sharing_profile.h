// Measures at start what grouped attention costs on this machine for this model's shape.
#pragma once

#include "absl/time/time.h"
#include "distattn/plan.h"
#include "distattn/sharing_cost.h"
#include "kernels/attention.h"

namespace lombard {

// Takes about `budget` at most, on the threads of `context`, and a few MiB of memory meanwhile. What the time
// did not suffice for counts as if stacking more rows gained nothing, so that nothing is grouped on a guess.
SharingCost MeasureSharing(const AttentionShape& shape, const KvLayout& layout, const CpuContext& context,
                           absl::Duration budget);

}  // namespace lombard
