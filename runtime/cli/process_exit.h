// How a process of a job ends: who may speak, and the exit code left where launch/run finds it.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"

namespace lombard {

// This process's rank as the launcher's environment tells it (Open MPI, PMIx, PMI, Slurm, in this order),
// before any bootstrap. nullopt: started alone.
std::optional<uint32_t> RankFromEnvironment();

// True for rank 0 and for a process started alone: it prints what all ranks would print alike.
bool SpeaksForAll();

// Writes `code` to $LOMBARD_RUN_DIR/rank.<i>.status when launch/run has set that directory; a process's last
// act. Failures are silent: a missing file counts as a failed rank.
void RecordExit(int code);

// Says why on standard error if it `speaks`, records the exit code if it was `launched` (RecordExit), and ends
// the process without running any destructor: one would wait for ever, as for a GPU that hangs.
[[noreturn]] void ExitAtOnce(const absl::Status& why, bool speaks, bool launched);

// Names in $LOMBARD_RUN_DIR/lost, one a line, the ranks that were lost while the others, or who came in their
// place, did the whole job.
void RecordLostRanks(const std::vector<int>& ranks);

}  // namespace lombard
