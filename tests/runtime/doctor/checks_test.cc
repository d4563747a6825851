// Goal: each check's judgement changes at its bound, and what is not ok names a remedy.
#include "runtime/doctor/checks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

#include "runtime/doctor/doctor.h"

namespace lombard::doctor {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr uint64_t kMiB = 1 << 20;

MATCHER_P(IsLevel, level, "") { return arg.level == level && arg.remedy.empty() == (level == Level::kOk); }

TEST(ChecksTest, Memory) {
  EXPECT_THAT(JudgeMemory(16384 * kMiB, 32768 * kMiB), IsLevel(Level::kOk));
  EXPECT_THAT(JudgeMemory(1024 * kMiB, 32768 * kMiB), IsLevel(Level::kWarning));
  EXPECT_THAT(JudgeMemory(64 * kMiB, 32768 * kMiB), IsLevel(Level::kProblem));
}

TEST(ChecksTest, SharedMemory) {
  EXPECT_THAT(JudgeSharedMemory(64 * kMiB), IsLevel(Level::kOk));
  EXPECT_THAT(JudgeSharedMemory(63 * kMiB), IsLevel(Level::kWarning));
}

TEST(ChecksTest, OpenFilesAndTheirHardLimit) {
  EXPECT_THAT(JudgeFiles(1024, kUnlimited), IsLevel(Level::kOk));
  EXPECT_THAT(JudgeFiles(kUnlimited, kUnlimited), IsLevel(Level::kOk));
  const Finding low = JudgeFiles(256, 512);
  EXPECT_THAT(low, IsLevel(Level::kWarning));
  EXPECT_THAT(low.remedy, HasSubstr("ulimit -n 512"));  // more would be refused
}

TEST(ChecksTest, StackAndLockedMemory) {
  EXPECT_THAT(JudgeStack(8 * kMiB), IsLevel(Level::kOk));
  EXPECT_THAT(JudgeStack(64 << 10), IsLevel(Level::kWarning));
  EXPECT_THAT(JudgeLockedMemory(8 * kMiB, false), IsLevel(Level::kOk));
  EXPECT_THAT(JudgeLockedMemory(8 * kMiB, true), IsLevel(Level::kWarning));
  EXPECT_THAT(JudgeLockedMemory(kUnlimited, true), IsLevel(Level::kOk));
}

TEST(ChecksTest, RootNeedsBothVariables) {
  EXPECT_THAT(JudgeRootVariables(false, false, false), IsLevel(Level::kOk));
  EXPECT_THAT(JudgeRootVariables(true, true, true), IsLevel(Level::kOk));
  EXPECT_THAT(JudgeRootVariables(true, false, false).text,
              HasSubstr("ROOT and OMPI_ALLOW_RUN_AS_ROOT_CONFIRM are"));
  EXPECT_THAT(JudgeRootVariables(true, true, false).text, HasSubstr("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM is"));
  EXPECT_THAT(JudgeRootVariables(true, false, true).text, HasSubstr("OMPI_ALLOW_RUN_AS_ROOT is"));
  EXPECT_THAT(JudgeRootVariables(true, false, true), IsLevel(Level::kWarning));
}

TEST(ChecksTest, Gpus) {
  const Finding none = JudgeGpus({{}, "no NVIDIA driver (libcuda.so.1)"}, false);
  EXPECT_THAT(none, IsLevel(Level::kOk));
  EXPECT_EQ(none.text, "none; no NVIDIA driver (libcuda.so.1); no nvidia-smi");
  EXPECT_THAT(JudgeGpus({{}, "the driver fails: 999", true}, true), IsLevel(Level::kWarning));
  GpuSearch two;
  two.gpus = {{0, "NVIDIA H200", 9, 0, uint64_t{140} << 30, 132, 0, 0, "0000:1b:00.0"}};
  two.reason = "GPU 1 (Tesla T4) has compute capability 7.5; 8.0 or more is needed";
  const Finding found = JudgeGpus(two, true);
  EXPECT_THAT(found, IsLevel(Level::kOk));
  EXPECT_THAT(found.text,
              HasSubstr("0: NVIDIA H200, compute capability 9.0, 140 GiB, at 0000:1b:00.0; GPU 1 (T"));
}

TEST(ChecksTest, Nccl) {
  EXPECT_THAT(JudgeNccl(absl::OkStatus()).text, HasSubstr("from GPU to GPU"));
  const Finding without = JudgeNccl(absl::UnavailableError("no libnccl.so.2"));
  EXPECT_THAT(without, IsLevel(Level::kOk));
  EXPECT_EQ(without.text, "no libnccl.so.2; attention over loans between GPUs goes over the transport");
}

TEST(ChecksTest, Transports) {
  EXPECT_THAT(JudgeTransports({"self/memory0", "tcp/lo", "tcp/eth0", "posix/memory"}), IsLevel(Level::kOk));
  EXPECT_THAT(JudgeTransports({"self/memory0", "rc_mlx5/mlx5_0:1", "sysv/memory"}), IsLevel(Level::kOk));
  EXPECT_THAT(JudgeTransports({"self/memory0", "tcp/lo", "posix/memory"}),
              IsLevel(Level::kWarning));                                                 // one host
  EXPECT_THAT(JudgeTransports({"self/memory0", "tcp/eth0"}), IsLevel(Level::kWarning));  // no shared memory
  EXPECT_THAT(JudgeTransports({"self/memory0", "cma/memory"}), IsLevel(Level::kProblem));
  EXPECT_THAT(JudgeTransports({}), IsLevel(Level::kProblem));
}

TEST(ChecksTest, AnUnroutableInterfaceIsNamedWithTheOneToUse) {
  const Findings findings = JudgeInterfaces(
      {{"lo", "127.0.0.1", true}, {"docker0", "172.17.0.1", false}, {"eth0", "10.0.0.5", false}});
  EXPECT_THAT(findings, ElementsAre(IsLevel(Level::kOk), IsLevel(Level::kWarning)));
  EXPECT_THAT(findings[1].text, HasSubstr("docker0 172.17.0.1"));
  EXPECT_THAT(findings[1].remedy, HasSubstr("--interface eth0"));
}

TEST(ChecksTest, OneInterfaceIsFineOfTwoTheChoiceIsSaidNoneIsOneHost) {
  EXPECT_THAT(JudgeInterfaces({{"eth0", "10.0.0.5", false}}), ElementsAre(IsLevel(Level::kOk)));
  const Findings two = JudgeInterfaces({{"eth0", "10.0.0.5", false}, {"eth1", "10.1.0.5", false}});
  EXPECT_THAT(two, ElementsAre(IsLevel(Level::kOk)));
  EXPECT_THAT(two[0].text, HasSubstr("default route"));
  EXPECT_THAT(JudgeInterfaces({{"lo", "127.0.0.1", true}}), ElementsAre(IsLevel(Level::kOk)));
}

TEST(FindingTest, PrintsOneLineEachAndASummary) {
  std::ostringstream out;
  Print({{Level::kOk, "cores", "2", ""}, {Level::kProblem, "UCX", "broken", "mend it"}}, out);
  EXPECT_EQ(out.str(),
            "ok       cores         2\n"
            "problem  UCX           broken\n"
            "                       remedy: mend it\n"
            "summary: 1 ok, 0 warnings, 1 problems\n");
  EXPECT_FALSE(HasProblem({{Level::kWarning, "", "", ""}}));
  EXPECT_TRUE(HasProblem({{Level::kProblem, "", "", ""}}));
}

// The machine that runs the tests can run the runtime, so nothing here may be a problem; and nothing is left
// out.
TEST(DoctorTest, ThisHostIsFitAndEveryTopicIsNamed) {
  std::ostringstream out;
  EXPECT_EQ(RunDoctor(out), 0) << out.str();
  for (const char* topic : {"cores", "CPU", "memory", "huge pages", "/dev/shm", "open files", "stack",
                            "locked memory", "GPUs", "MPI", "UCX", "network", "Slurm", "clock", "summary"}) {
    EXPECT_THAT(out.str(), HasSubstr(topic));
  }
}

}  // namespace
}  // namespace lombard::doctor
