#include "fabric/bootstrap.h"

#include <stdlib.h>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "fabric/host_name.h"

namespace lombard {
namespace {

class SingleBootstrap final : public Bootstrap {
 public:
  JobLayout layout() const override { return {.host = HostName()}; }
  absl::StatusOr<std::vector<std::string>> AllGather(absl::string_view mine, absl::Duration) override {
    return std::vector<std::string>{std::string(mine)};
  }
  void Finish(bool) override {}
};

// Below the range from which the kernel takes ports of its own.
constexpr uint64_t kSlurmPortFirst = 20000, kSlurmPortCount = 12000;

absl::StatusOr<int> ReadNumber(const char* name, const char* text) {
  int value = 0;
  if (absl::SimpleAtoi(text, &value) && value >= 0) return value;
  return absl::InvalidArgumentError(absl::StrCat(name, "='", text, "' in the environment is not a number"));
}

}  // namespace

std::unique_ptr<Bootstrap> MakeSingleBootstrap() { return std::make_unique<SingleBootstrap>(); }

absl::StatusOr<LaunchChoice> ChooseLauncher(const BootstrapOptions& options,
                                            absl::FunctionRef<const char*(const char*)> env) {
  LaunchChoice choice{Launcher::kNone, options};
  BootstrapOptions& filled = choice.options;
  if (options.rank >= 0 || options.size >= 0) {
    if (options.rank < 0 || options.size < 0) {
      return absl::InvalidArgumentError(
          "--rank and --size belong together: each rank is given its number and the number of all");
    }
    if (options.size > 1 && options.rendezvous.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--size ", options.size, " without --rendezvous HOST:PORT, a free port on the host of rank 0"));
    }
    choice.launcher = Launcher::kEnvironment;
    return choice;
  }
  if (const char* size = env("OMPI_COMM_WORLD_SIZE")) {
    ASSIGN_OR_RETURN(const int ranks, ReadNumber("OMPI_COMM_WORLD_SIZE", size));
    choice.launcher = ranks == 1 ? Launcher::kNone : Launcher::kMpi;
    return choice;
  }
  if (env("PMIX_RANK") != nullptr) {
    choice.launcher = Launcher::kMpi;
    return choice;
  }
  // A batch script has SLURM_PROCID as well; only what srun started has a step.
  const char *rank = env("SLURM_PROCID"), *step = env("SLURM_STEP_ID");
  const char* size =
      env("SLURM_STEP_NUM_TASKS") != nullptr ? env("SLURM_STEP_NUM_TASKS") : env("SLURM_NTASKS");
  if (rank == nullptr || step == nullptr || size == nullptr) {
    if (const char* other = env("PMI_SIZE"); other != nullptr && absl::string_view(other) != "1") {
      return absl::FailedPreconditionError(
          absl::StrCat("started as one of ", other, " by a launcher that is not Open MPI (PMI_SIZE is set): ",
                       "use Open MPI's mpirun, srun, or --rank, --size and --rendezvous"));
    }
    return choice;
  }
  ASSIGN_OR_RETURN(filled.rank, ReadNumber("SLURM_PROCID", rank));
  ASSIGN_OR_RETURN(filled.size, ReadNumber("SLURM_NTASKS", size));
  if (filled.size <= 1) return choice;
  choice.launcher = Launcher::kEnvironment;
  const char* job = env("SLURM_JOB_ID");
  if (filled.job.empty()) filled.job = absl::StrCat("Slurm ", job == nullptr ? "" : job, ".", step);
  if (filled.rendezvous.empty()) {
    const char* nodes =
        env("SLURM_STEP_NODELIST") != nullptr ? env("SLURM_STEP_NODELIST") : env("SLURM_JOB_NODELIST");
    if (nodes == nullptr) {
      return absl::InvalidArgumentError(
          "SLURM_STEP_NODELIST is not set: pass --rendezvous HOST:PORT, a free port on the host of rank 0");
    }
    uint64_t hash = 0;
    for (const char c : filled.job) hash = hash * 131 + static_cast<unsigned char>(c);
    filled.rendezvous = absl::StrCat(FirstHost(nodes), ":", kSlurmPortFirst + hash % kSlurmPortCount);
  }
  return choice;
}

absl::StatusOr<std::unique_ptr<Bootstrap>> DetectBootstrap(const BootstrapOptions& options) {
  ASSIGN_OR_RETURN(const LaunchChoice choice,
                   ChooseLauncher(options, [](const char* name) -> const char* { return getenv(name); }));
  switch (choice.launcher) {
    case Launcher::kMpi:
      return MakeMpiBootstrap();
    case Launcher::kEnvironment:
      return MakeEnvironmentBootstrap(choice.options);
    case Launcher::kNone:
      break;
  }
  return MakeSingleBootstrap();
}

}  // namespace lombard
