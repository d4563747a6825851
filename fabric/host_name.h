// Names of hosts, for the bootstraps.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "fabric/bootstrap.h"

namespace lombard {

std::string HostName();  // of this host; "localhost" when it has none
// The same for two processes that share a host: its name and the kernel's boot id, as names repeat on cloned
// machines.
std::string HostKey();
// Who `rank` is, from the HostKeys of all ranks. REQUIRES: 0 <= rank < host_keys.size().
JobLayout MakeLayout(int rank, const std::vector<std::string>& host_keys);
// The first host of a Slurm list: "n[03-07,9],m1" -> "n03".
std::string FirstHost(absl::string_view list);

}  // namespace lombard
