// Cores, instruction sets, memory, huge pages, shared memory, process limits.
#include <sched.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/units.h"
#include "kernels/cpu_context.h"
#include "runtime/doctor/checks.h"

namespace lombard::doctor {
namespace {

constexpr uint64_t kMiB = 1 << 20;

std::string LimitText(uint64_t value, bool bytes) {
  if (value == kUnlimited) return "unlimited";
  return bytes ? FormatBytes(value) : absl::StrCat(value);
}

uint64_t Limit(rlim_t value) { return value == RLIM_INFINITY ? kUnlimited : value; }

int AffinityCores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  // Fails on hosts with more than 1024 CPUs; then affinity is taken as all of them.
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  return CPU_COUNT(&set);
}

}  // namespace

void CheckCores(const Host& host, Findings& findings) {
  const int online = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  const int affinity = AffinityCores();
  const std::optional<double> quota = CgroupCores(host);
  double usable = affinity;
  if (quota) usable = std::min(usable, *quota);
  Finding cores{Level::kOk, "cores",
                absl::StrFormat("%g usable (%d online, %d by affinity, %s by cgroup)", usable, online,
                                affinity, quota ? absl::StrFormat("%g", *quota) : "all"),
                ""};
  if (usable < 1) {
    cores.level = Level::kWarning;
    cores.remedy = "the cgroup grants less than one core; raise its CPU quota";
  }
  findings.push_back(std::move(cores));

  const Isa isa = DetectIsa();
  const std::string model =
      CpuinfoValue(host.Read("/proc/cpuinfo").value_or(""), "model name").value_or("CPU");
  Finding cpu{Level::kOk, "CPU", absl::StrCat(model, ", kernels for ", IsaName(isa)), ""};
  if (isa == Isa::kBase) {
    cpu.level = Level::kWarning;
    cpu.remedy = "no AVX2 here: kernels are slow; in a virtual machine, pass the host's CPU features through";
  }
  findings.push_back(std::move(cpu));
}

Finding JudgeMemory(uint64_t free_bytes, uint64_t total_bytes) {
  Finding finding{Level::kOk, "memory",
                  absl::StrCat(FormatBytes(free_bytes), " free of ", FormatBytes(total_bytes),
                               "; the KV of all ranks here gets half of it unless told otherwise"),
                  ""};
  if (free_bytes < 128 * kMiB) {
    finding.level = Level::kProblem;
    finding.remedy = "free memory: not even a tiny model runs in less than 128 MiB";
  } else if (free_bytes < 2048 * kMiB) {
    finding.level = Level::kWarning;
    finding.remedy = "models of a billion parameters need 2 GiB or more; free memory or use a small one";
  }
  return finding;
}

Finding JudgeSharedMemory(uint64_t free_bytes) {
  Finding finding{Level::kOk, "/dev/shm", FormatBytes(free_bytes) + " free", ""};
  if (free_bytes < 64 * kMiB) {
    finding.level = Level::kWarning;
    finding.remedy = "ranks on this host talk through it; containers: --shm-size=1g, or UCX_TLS=self,tcp";
  }
  return finding;
}

void CheckMemory(const Host& host, Findings& findings) {
  const std::string meminfo = host.Read("/proc/meminfo").value_or("");
  const std::optional<uint64_t> total = MeminfoBytes(meminfo, "MemTotal");
  std::optional<uint64_t> free = MeminfoBytes(meminfo, "MemAvailable");
  if (!total || !free) {
    findings.push_back({Level::kWarning, "memory", "/proc/meminfo cannot be read",
                        "mount /proc, or give --kv-tokens or --kv-bytes"});
  } else {
    Finding memory = JudgeMemory(*free, *total);
    if (const auto group = FindCgroupMemory(host); group && group->limit_bytes < *total) {
      const uint64_t left = group->limit_bytes - std::min(group->limit_bytes, group->used_bytes);
      memory = JudgeMemory(std::min(*free, left), *total);
      absl::StrAppend(&memory.text, "; the cgroup's limit is ", FormatBytes(group->limit_bytes));
    }
    findings.push_back(std::move(memory));
  }

  const auto thp = BracketedChoice(host.Read("/sys/kernel/mm/transparent_hugepage/enabled").value_or(""));
  std::string text = absl::StrCat("transparent ones: ", thp.value_or("not offered"));
  const std::string reserved = host.Read("/proc/sys/vm/nr_hugepages").value_or("0");
  if (reserved != "0") absl::StrAppend(&text, "; ", reserved, " reserved, which Lombard does not use");
  findings.push_back({Level::kOk, "huge pages", std::move(text), ""});

  struct statvfs shm;
  if (statvfs("/dev/shm", &shm) != 0 || access("/dev/shm", W_OK) != 0) {
    findings.push_back({Level::kWarning, "/dev/shm", "missing or not writable",
                        "mount a tmpfs there, or run with UCX_TLS=self,tcp"});
  } else {
    findings.push_back(JudgeSharedMemory(static_cast<uint64_t>(shm.f_bavail) * shm.f_frsize));
  }
}

Finding JudgeFiles(uint64_t soft, uint64_t hard) {
  Finding finding{Level::kOk, "open files", absl::StrCat("limit ", LimitText(soft, false)), ""};
  if (soft < 1024) {
    finding.level = Level::kWarning;
    finding.remedy = absl::StrCat("ulimit -n ", hard < 4096 ? LimitText(hard, false) : "4096",
                                  ": every peer and client takes some");
  }
  return finding;
}

Finding JudgeStack(uint64_t soft) {
  Finding finding{Level::kOk, "stack", absl::StrCat("limit ", LimitText(soft, true)), ""};
  if (soft < kMiB) {
    finding.level = Level::kWarning;
    finding.remedy = "ulimit -s 8192";
  }
  return finding;
}

Finding JudgeLockedMemory(uint64_t soft, bool has_rdma) {
  Finding finding{Level::kOk, "locked memory", absl::StrCat("limit ", LimitText(soft, true)), ""};
  if (!has_rdma) {
    finding.text += "; only RDMA needs more, and there is no such device";
  } else if (soft != kUnlimited) {
    finding.level = Level::kWarning;
    finding.remedy = "ulimit -l unlimited (limits.conf, or the Slurm daemon's unit): RDMA pins what it sends";
  }
  return finding;
}

void CheckLimits(Findings& findings) {
  const auto get = [](auto resource) {
    rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};
    getrlimit(resource, &limit);
    return limit;
  };
  const rlimit files = get(RLIMIT_NOFILE);
  findings.push_back(JudgeFiles(Limit(files.rlim_cur), Limit(files.rlim_max)));
  findings.push_back(JudgeStack(Limit(get(RLIMIT_STACK).rlim_cur)));
  const bool has_rdma = access("/dev/infiniband", F_OK) == 0;
  findings.push_back(JudgeLockedMemory(Limit(get(RLIMIT_MEMLOCK).rlim_cur), has_rdma));
  const rlimit address_space = get(RLIMIT_AS);
  if (address_space.rlim_cur != RLIM_INFINITY) {
    findings.push_back({Level::kWarning, "address space",
                        absl::StrCat("limit ", LimitText(Limit(address_space.rlim_cur), true)),
                        "ulimit -v unlimited: weights are memory-mapped whole"});
  }
}

}  // namespace lombard::doctor
