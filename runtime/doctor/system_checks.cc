// GPUs, Slurm, clocks.
#include <chrono>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/units.h"
#include "runtime/doctor/checks.h"
#ifdef LOMBARD_HAS_NCCL
#include "fabric/nccl/nccl_library.h"
#endif

namespace lombard::doctor {
namespace {

std::string Path() {
  const char* path = std::getenv("PATH");
  return path == nullptr ? "" : path;
}

}  // namespace

Finding JudgeGpus(const GpuSearch& found, bool has_tool) {
  Finding finding{Level::kOk, "GPUs", "", ""};
  for (const GpuInfo& gpu : found.gpus) {
    absl::StrAppendFormat(&finding.text, "%s%d: %s, compute capability %d.%d, %s, at %s",
                          finding.text.empty() ? "" : "; ", gpu.device, gpu.name, gpu.compute_major,
                          gpu.compute_minor, FormatBytes(gpu.memory_bytes), gpu.pci);
  }
  if (found.gpus.empty()) finding.text = "none";
  if (!found.reason.empty()) absl::StrAppend(&finding.text, "; ", found.reason);
  absl::StrAppend(&finding.text, found.gpus.empty() ? "" : "; used with --device cuda or auto",
                  has_tool ? "" : "; no nvidia-smi");
  if (found.broken) {
    finding.level = Level::kWarning;
    finding.remedy = "check the driver with nvidia-smi; runs use the CPUs";
  }
  return finding;
}

Finding JudgeNccl(const absl::Status& loaded) {
  if (loaded.ok()) return {Level::kOk, "NCCL", "loads; attention over loans goes from GPU to GPU", ""};
  return {Level::kOk, "NCCL",
          absl::StrCat(loaded.message(), "; attention over loans between GPUs goes over the transport"), ""};
}

void CheckGpus(Findings& findings) {
  const GpuSearch found = FindGpus();
  findings.push_back(JudgeGpus(found, FindProgram("nvidia-smi", Path()).has_value()));
  if (found.gpus.empty()) return;
#ifdef LOMBARD_HAS_NCCL
  findings.push_back(JudgeNccl(NcclLibrary::Load().status()));
#else
  findings.push_back(JudgeNccl(absl::UnimplementedError("not built in")));
#endif
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
