// GPUs, Slurm, clocks.
#include <dlfcn.h>

#include <chrono>
#include <cstdlib>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "runtime/doctor/checks.h"

namespace lombard::doctor {
namespace {

std::string Path() {
  const char* path = std::getenv("PATH");
  return path == nullptr ? "" : path;
}

}  // namespace

void CheckGpus(Findings& findings) {
  const bool has_tool = FindProgram("nvidia-smi", Path()).has_value();
  const std::string tool = has_tool ? "nvidia-smi is there" : "no nvidia-smi";
  void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (driver == nullptr) {
    findings.push_back(
        {Level::kOk, "GPUs", absl::StrCat("none: no NVIDIA driver (libcuda.so.1), ", tool), ""});
    return;
  }
  // Stays loaded: the driver does not survive dlclose well.
  const auto init = reinterpret_cast<int (*)(unsigned)>(dlsym(driver, "cuInit"));
  const auto count_of = reinterpret_cast<int (*)(int*)>(dlsym(driver, "cuDeviceGetCount"));
  int count = 0, error = -1;
  if (init != nullptr && count_of != nullptr && (error = init(0)) == 0) error = count_of(&count);
  if (error != 0) {
    findings.push_back({Level::kWarning, "GPUs",
                        absl::StrFormat("libcuda.so.1 is there but fails (error %d), %s", error, tool),
                        "check the driver with nvidia-smi; runs use the CPUs"});
  } else {
    findings.push_back({Level::kOk, "GPUs",
                        absl::StrFormat("%d; this version runs on CPUs and leaves them alone", count), ""});
  }
}

void CheckSlurm(Findings& findings) {
  if (const char* job = std::getenv("SLURM_JOB_ID")) {
    const char* nodes = std::getenv("SLURM_JOB_NUM_NODES");
    const char* tasks = std::getenv("SLURM_NTASKS");
    findings.push_back({Level::kOk, "Slurm",
                        absl::StrCat("inside job ", job, ", nodes ", nodes == nullptr ? "?" : nodes,
                                     ", tasks ", tasks == nullptr ? "?" : tasks),
                        ""});
    return;
  }
  const auto srun = FindProgram("srun", Path());
  findings.push_back({Level::kOk, "Slurm",
                      srun ? absl::StrCat("not inside a job; tools: ", *srun) : "not installed, not needed",
                      ""});
}

void CheckClock(const Host& host, Findings& findings) {
  const std::string source =
      host.Read("/sys/devices/system/clocksource/clocksource0/current_clocksource").value_or("unknown");
  constexpr int kReads = 1000;
  const auto start = std::chrono::steady_clock::now();
  auto last = start;
  for (int i = 0; i < kReads; ++i) last = std::chrono::steady_clock::now();
  const double ns = std::chrono::duration<double, std::nano>(last - start).count() / kReads;
  Finding finding{Level::kOk, "clock", absl::StrFormat("%s, %.0f ns a reading", source, ns), ""};
  if (ns > 1000) {  // a reading through the kernel; every message takes a few
    finding.level = Level::kWarning;
    finding.remedy =
        "slow source (hpet, acpi_pm): boot with tsc or the hypervisor's clock where it is stable";
  }
  findings.push_back(std::move(finding));
}

}  // namespace lombard::doctor
