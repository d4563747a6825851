// `lombard doctor`: looks at this host and says what a run would meet: cores, instruction sets, memory,
// limits, GPUs, MPI, UCX, network, Slurm, clocks. Measures nothing, changes nothing, needs no model and no
// other host.
#pragma once

#include <ostream>

namespace lombard {

// One line per finding: ok, warning or problem, with a remedy for the last two, then a summary line.
// Returns the exit code: 1 when a problem makes runs on this host impossible, else 0. Takes well under a
// second.
int RunDoctor(std::ostream& out);

}  // namespace lombard
