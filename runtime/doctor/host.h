// What the checks read of the host: files of /proc and /sys under a root, so that tests bring their own, and
// the parsers of their formats. Formats: proc(5), cgroups(7).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace lombard::doctor {

class Host {
 public:
  explicit Host(std::string root = "") : root_(std::move(root)) {}

  // The file's text without the final newline; nullopt when it cannot be read.
  std::optional<std::string> Read(absl::string_view path) const;
  bool Exists(absl::string_view path) const;

 private:
  std::string root_;  // put before every path
};

// Bytes of one line of /proc/meminfo ("MemAvailable"); nullopt when missing or malformed.
std::optional<uint64_t> MeminfoBytes(absl::string_view meminfo, absl::string_view key);
// The value of a "key : value" line of /proc/cpuinfo, of the first processor.
std::optional<std::string> CpuinfoValue(absl::string_view cpuinfo, absl::string_view key);
// "always [madvise] never" -> "madvise".
std::optional<std::string> BracketedChoice(absl::string_view text);
// cgroup v2 cpu.max "200000 100000" -> 2.0; "max ..." and what is malformed -> nullopt.
std::optional<double> CpuMaxCores(absl::string_view cpu_max);

// This process's directory for `controller` in the cgroup hierarchy, v1 or v2, under /sys/fs/cgroup; where
// that is not mounted (containers see their own group as the root), the root of the hierarchy. nullopt: no
// cgroups.
struct CgroupDir {
  std::string path;
  bool v2 = false;
};
std::optional<CgroupDir> FindCgroup(const Host& host, absl::string_view controller);

// The tightest bound of this process's group and of those above it; nullopt: unlimited.
std::optional<double> CgroupCores(const Host& host);
struct CgroupMemory {
  uint64_t limit_bytes = 0;
  uint64_t used_bytes = 0;
};
std::optional<CgroupMemory> FindCgroupMemory(const Host& host);

// "tcp/eth0" for each "resource" line of ucp_context_print_info.
std::vector<std::string> UcxResources(absl::string_view info);
// Interfaces whose addresses other hosts cannot reach: bridges and pairs of container and VM software.
bool IsHostOnlyInterface(absl::string_view name);

// The program's full path, as a shell would find it in `path_variable` (PATH); nullopt when it is not there.
std::optional<std::string> FindProgram(absl::string_view name, absl::string_view path_variable);

}  // namespace lombard::doctor
