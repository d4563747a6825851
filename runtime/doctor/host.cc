#include "runtime/doctor/host.h"

#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace lombard::doctor {
namespace {

constexpr absl::string_view kCgroupRoot = "/sys/fs/cgroup";

std::optional<uint64_t> ReadNumber(const Host& host, absl::string_view path) {
  const std::optional<std::string> text = host.Read(path);
  uint64_t value = 0;
  if (!text || !absl::SimpleAtoi(*text, &value)) return std::nullopt;
  return value;
}

// Calls visit(path) for `dir` and every group above it, the hierarchy's root included.
template <typename Visit>
void UpTheTree(std::string dir, absl::string_view top, Visit visit) {
  while (true) {
    visit(dir);
    if (dir.size() <= top.size()) return;
    dir.resize(dir.rfind('/'));
  }
}

// The mount point of the hierarchy that `dir` belongs to: /sys/fs/cgroup, or with v1 one below it.
std::string Top(const CgroupDir& dir, absl::string_view controller) {
  return dir.v2 ? std::string(kCgroupRoot) : absl::StrCat(kCgroupRoot, "/", controller);
}

}  // namespace

std::optional<std::string> Host::Read(absl::string_view path) const {
  std::ifstream in(absl::StrCat(root_, path));
  if (!in) return std::nullopt;
  std::ostringstream text;
  text << in.rdbuf();
  if (in.bad()) return std::nullopt;
  return std::string(absl::StripTrailingAsciiWhitespace(text.str()));
}

bool Host::Exists(absl::string_view path) const {
  struct stat info;
  return stat(absl::StrCat(root_, path).c_str(), &info) == 0;
}

std::optional<uint64_t> MeminfoBytes(absl::string_view meminfo, absl::string_view key) {
  for (absl::string_view line : absl::StrSplit(meminfo, '\n')) {
    if (!absl::ConsumePrefix(&line, absl::StrCat(key, ":"))) continue;
    if (!absl::ConsumeSuffix(&line, " kB")) return std::nullopt;
    uint64_t kib = 0;
    if (!absl::SimpleAtoi(absl::StripAsciiWhitespace(line), &kib) || kib > UINT64_MAX / 1024)
      return std::nullopt;
    return kib * 1024;
  }
  return std::nullopt;
}

std::optional<std::string> CpuinfoValue(absl::string_view cpuinfo, absl::string_view key) {
  for (absl::string_view line : absl::StrSplit(cpuinfo, '\n')) {
    const std::vector<absl::string_view> parts = absl::StrSplit(line, absl::MaxSplits(':', 1));
    if (parts.size() == 2 && absl::StripAsciiWhitespace(parts[0]) == key) {
      return std::string(absl::StripAsciiWhitespace(parts[1]));
    }
  }
  return std::nullopt;
}

std::optional<std::string> BracketedChoice(absl::string_view text) {
  const size_t open = text.find('[');
  const size_t close = text.find(']');
  if (open == absl::string_view::npos || close == absl::string_view::npos || close < open)
    return std::nullopt;
  return std::string(text.substr(open + 1, close - open - 1));
}

std::optional<double> CpuMaxCores(absl::string_view cpu_max) {
  const std::vector<absl::string_view> parts = absl::StrSplit(cpu_max, ' ', absl::SkipEmpty());
  int64_t quota = 0, period = 0;
  if (parts.size() != 2 || !absl::SimpleAtoi(parts[0], &quota) || !absl::SimpleAtoi(parts[1], &period)) {
    return std::nullopt;
  }
  if (quota <= 0 || period <= 0) return std::nullopt;
  return static_cast<double>(quota) / static_cast<double>(period);
}

std::optional<CgroupDir> FindCgroup(const Host& host, absl::string_view controller) {
  const std::string own = host.Read("/proc/self/cgroup").value_or("");
  std::optional<CgroupDir> v2;
  for (absl::string_view line : absl::StrSplit(own, '\n')) {  // id:controllers:path
    const std::vector<absl::string_view> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3) continue;
    const bool is_v2 = parts[1].empty();
    bool names_it = is_v2;
    for (absl::string_view name : absl::StrSplit(parts[1], ',')) names_it = names_it || name == controller;
    if (!names_it) continue;
    CgroupDir dir{"", is_v2};
    const std::string top = Top(dir, controller);
    if (!host.Exists(top) || (is_v2 && !host.Exists(absl::StrCat(top, "/cgroup.controllers")))) continue;
    const absl::string_view below = parts[2] == "/" ? "" : parts[2];
    dir.path = absl::StrCat(top, below);
    if (!host.Exists(dir.path)) dir.path = top;
    if (!is_v2) return dir;  // a controller that v1 holds is not in v2
    v2 = dir;
  }
  return v2;
}

std::optional<double> CgroupCores(const Host& host) {
  const std::optional<CgroupDir> dir = FindCgroup(host, "cpu");
  if (!dir) return std::nullopt;
  std::optional<double> least;
  UpTheTree(dir->path, Top(*dir, "cpu"), [&](const std::string& path) {
    std::optional<double> cores;
    if (dir->v2) {
      cores = CpuMaxCores(host.Read(path + "/cpu.max").value_or(""));
    } else {
      cores = CpuMaxCores(absl::StrCat(host.Read(path + "/cpu.cfs_quota_us").value_or(""), " ",
                                       host.Read(path + "/cpu.cfs_period_us").value_or("")));
    }
    if (cores && (!least || *cores < *least)) least = cores;
  });
  return least;
}

std::optional<CgroupMemory> FindCgroupMemory(const Host& host) {
  const std::optional<CgroupDir> dir = FindCgroup(host, "memory");
  if (!dir) return std::nullopt;
  std::optional<CgroupMemory> least;
  UpTheTree(dir->path, Top(*dir, "memory"), [&](const std::string& path) {
    const auto limit = ReadNumber(host, path + (dir->v2 ? "/memory.max" : "/memory.limit_in_bytes"));
    const auto used = ReadNumber(host, path + (dir->v2 ? "/memory.current" : "/memory.usage_in_bytes"));
    if (!limit || *limit >= (uint64_t{1} << 60)) return;  // v1 writes "unlimited" as a huge number
    if (!least || *limit < least->limit_bytes) least = CgroupMemory{*limit, used.value_or(0)};
  });
  return least;
}

std::vector<std::string> UcxResources(absl::string_view info) {
  std::vector<std::string> resources;
  for (absl::string_view line : absl::StrSplit(info, '\n')) {
    const size_t at = line.rfind("-- ");
    if (at == absl::string_view::npos || !absl::StrContains(line, " resource ")) continue;
    resources.emplace_back(absl::StripAsciiWhitespace(line.substr(at + 3)));
  }
  return resources;
}

bool IsHostOnlyInterface(absl::string_view name) {
  for (absl::string_view prefix : {"docker", "br-", "virbr", "veth", "vnet", "lxcbr", "lxdbr", "podman",
                                   "cni", "flannel", "cali", "nerdctl", "ifb", "tap"}) {
    if (absl::StartsWith(name, prefix)) return true;
  }
  return false;
}

std::optional<std::string> FindProgram(absl::string_view name, absl::string_view path_variable) {
  for (absl::string_view dir : absl::StrSplit(path_variable, ':', absl::SkipEmpty())) {
    std::string path = absl::StrCat(dir, "/", name);
    if (access(path.c_str(), X_OK) == 0) return path;
  }
  return std::nullopt;
}

}  // namespace lombard::doctor
