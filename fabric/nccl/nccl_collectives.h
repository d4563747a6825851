// Collectives over NCCL.
#pragma once

#include <memory>

#include "base/clock.h"
#include "fabric/collectives.h"
#include "fabric/nccl/nccl_library.h"

namespace lombard {

struct NcclOptions {
  int rank = 0;                                     // of the job
  int device = 0;                                   // this rank's GPU,
  GpuPlace place;                                   // and where it is
  int ctas_max = 2;                                 // thread blocks of a communicator; a guess, not measured
  absl::Duration open_timeout = absl::Seconds(30);  // for the other end to come
  // That one call may take to be accepted. The first of a pair in each direction connects, and is accepted
  // when the other end's comes: longer than a debtor waits for answers.
  absl::Duration call_timeout = absl::Seconds(5);
  absl::Duration abort_timeout = absl::Seconds(10);  // that the end waits for aborts, which then go on alone
};

// `library` and `clock` are copied and borrowed. Communicators are non-blocking: NCCL's calls return at once
// and are asked until they are accepted, at most call_timeout. Aborts may wait for the GPU, so each runs on a
// thread of its own; a failed one is a line on standard error.
std::unique_ptr<Collectives> MakeNcclCollectives(const NcclLibrary& library, const NcclOptions& options,
                                                 const Clock* clock);

}  // namespace lombard
