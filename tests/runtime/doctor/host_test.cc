// Goal: the doctor reads what kernels write into /proc and /sys, and survives what it does not understand.
// Method: files of real hosts (cgroup v1, v2, inside a container) under a temporary root; mutations for the
// rest.
#include "runtime/doctor/host.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <random>

namespace lombard::doctor {
namespace {

using ::testing::ElementsAre;
using ::testing::Eq;
using ::testing::IsEmpty;
using ::testing::Optional;

constexpr char kMeminfo[] =
    "MemTotal:       24684096 kB\nMemFree:         1000000 kB\nMemAvailable:   22000000 kB\nHugePages_Total: "
    "      0\n";

class HostTest : public ::testing::Test {
 protected:
  HostTest() {
    root_ = std::filesystem::path(::testing::TempDir()) /
            (std::string("doctor.") + ::testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::remove_all(root_);
  }
  ~HostTest() override { std::filesystem::remove_all(root_); }
  void Write(const std::string& path, const std::string& text) {
    const std::filesystem::path file = root_.string() + path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text << "\n";
  }
  Host host() const { return Host(root_.string()); }
  std::filesystem::path root_;
};

TEST(MeminfoTest, LinesAreBytes) {
  EXPECT_THAT(MeminfoBytes(kMeminfo, "MemTotal"), Optional(uint64_t{24684096} * 1024));
  EXPECT_THAT(MeminfoBytes(kMeminfo, "MemAvailable"), Optional(uint64_t{22000000} * 1024));
}

TEST(MeminfoTest, MissingAndMalformedLinesAreNothing) {
  EXPECT_THAT(MeminfoBytes(kMeminfo, "Mem"), Eq(std::nullopt));
  EXPECT_THAT(MeminfoBytes(kMeminfo, "HugePages_Total"), Eq(std::nullopt));  // no unit
  EXPECT_THAT(MeminfoBytes("", "MemTotal"), Eq(std::nullopt));
  EXPECT_THAT(MeminfoBytes("MemTotal: many kB", "MemTotal"), Eq(std::nullopt));
  EXPECT_THAT(MeminfoBytes("MemTotal: 18446744073709551615 kB", "MemTotal"), Eq(std::nullopt));  // overflow
}

TEST(CpuinfoTest, ValueOfTheFirstProcessor) {
  const std::string text =
      "processor\t: 0\nmodel name\t: Some CPU: 2.0GHz\nprocessor\t: 1\nmodel name\t: Other\n";
  EXPECT_THAT(CpuinfoValue(text, "model name"), Optional(std::string("Some CPU: 2.0GHz")));
  EXPECT_THAT(CpuinfoValue(text, "flags"), Eq(std::nullopt));
}

TEST(BracketTest, TheChosenWord) {
  EXPECT_THAT(BracketedChoice("always [madvise] never"), Optional(std::string("madvise")));
  EXPECT_THAT(BracketedChoice("always madvise never"), Eq(std::nullopt));
  EXPECT_THAT(BracketedChoice("] ["), Eq(std::nullopt));
}

TEST(CpuMaxTest, QuotaOverPeriod) {
  EXPECT_THAT(CpuMaxCores("150000 100000"), Optional(1.5));
  EXPECT_THAT(CpuMaxCores("max 100000"), Eq(std::nullopt));
  EXPECT_THAT(CpuMaxCores("-1 100000"), Eq(std::nullopt));
  EXPECT_THAT(CpuMaxCores("100000 0"), Eq(std::nullopt));
  EXPECT_THAT(CpuMaxCores("100000"), Eq(std::nullopt));
}

TEST_F(HostTest, CgroupV2TakesTheTightestOfTheGroupAndThoseAbove) {
  Write("/proc/self/cgroup", "0::/slice/job");
  Write("/sys/fs/cgroup/cgroup.controllers", "cpu memory");
  Write("/sys/fs/cgroup/slice/cpu.max", "100000 100000");
  Write("/sys/fs/cgroup/slice/job/cpu.max", "max 100000");
  Write("/sys/fs/cgroup/slice/memory.max", "8589934592");
  Write("/sys/fs/cgroup/slice/memory.current", "1024");
  Write("/sys/fs/cgroup/slice/job/memory.max", "1073741824");
  Write("/sys/fs/cgroup/slice/job/memory.current", "4096");
  EXPECT_THAT(CgroupCores(host()), Optional(1.0));
  const auto memory = FindCgroupMemory(host());
  ASSERT_TRUE(memory.has_value());
  EXPECT_EQ(memory->limit_bytes, 1073741824u);
  EXPECT_EQ(memory->used_bytes, 4096u);
}

TEST_F(HostTest, CgroupV1NamesControllersInPairs) {
  Write("/proc/self/cgroup", "4:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc\n0::/");
  Write("/sys/fs/cgroup/cpu/docker/abc/cpu.cfs_quota_us", "250000");
  Write("/sys/fs/cgroup/cpu/docker/abc/cpu.cfs_period_us", "100000");
  Write("/sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", "2147483648");
  Write("/sys/fs/cgroup/memory/docker/abc/memory.usage_in_bytes", "1");
  Write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712");  // v1's "unlimited"
  EXPECT_THAT(CgroupCores(host()), Optional(2.5));
  ASSERT_TRUE(FindCgroupMemory(host()).has_value());
  EXPECT_EQ(FindCgroupMemory(host())->limit_bytes, 2147483648u);
}

TEST_F(HostTest, AContainerThatSeesItsOwnGroupAsTheRoot) {
  Write("/proc/self/cgroup", "0::/machine/not/visible/here");
  Write("/sys/fs/cgroup/cgroup.controllers", "cpu memory");
  Write("/sys/fs/cgroup/cpu.max", "50000 100000");
  EXPECT_THAT(CgroupCores(host()), Optional(0.5));
}

TEST_F(HostTest, NoCgroupsMeansNoBound) {
  EXPECT_THAT(CgroupCores(host()), Eq(std::nullopt));
  EXPECT_FALSE(FindCgroupMemory(host()).has_value());
  Write("/proc/self/cgroup", "0::/");  // known to the kernel, but not mounted
  EXPECT_THAT(CgroupCores(host()), Eq(std::nullopt));
}

TEST_F(HostTest, MutatedFilesAreSurvived) {
  const uint32_t seed = 20240601;
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  const std::string cgroup = "4:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc\n0::/x/y";
  Write("/sys/fs/cgroup/cgroup.controllers", "cpu");
  Write("/sys/fs/cgroup/cpu/cpu.max", "1 1");
  for (int round = 0; round < 100; ++round) {
    std::string text = cgroup + kMeminfo;
    for (int edit = 0; edit < 8; ++edit) text[random() % text.size()] = static_cast<char>(random());
    Write("/proc/self/cgroup", text);
    const auto cores = CgroupCores(host());
    EXPECT_TRUE(!cores || *cores > 0);
    FindCgroupMemory(host());
    MeminfoBytes(text, "MemTotal");
    CpuinfoValue(text, "MemFree");
    UcxResources(text);
  }
}

TEST(UcxResourcesTest, TakesTransportAndDevice) {
  EXPECT_THAT(UcxResources("#            md 0  :  component 0  self \n#\n"
                           "#      resource 0  :  md 0  dev 0  flags -- self/memory0\n"
                           "#      resource 2  :  md 1  dev 2  flags -- tcp/eth0\n"),
              ElementsAre("self/memory0", "tcp/eth0"));
  EXPECT_THAT(UcxResources("nothing -- here"), IsEmpty());
}

TEST(InterfaceTest, BridgesOfContainersAreHostOnly) {
  for (const char* name : {"docker0", "br-1a2b", "virbr0", "veth12", "podman1", "cni0"}) {
    EXPECT_TRUE(IsHostOnlyInterface(name)) << name;
  }
  for (const char* name : {"eth0", "ens3", "ib0", "bond0", "bridge-of-mine", "lo"}) {
    EXPECT_FALSE(IsHostOnlyInterface(name)) << name;
  }
}

TEST_F(HostTest, ProgramsAreFoundInTheOrderOfThePath) {
  Write("/b/prog", "");
  Write("/c/prog", "");
  const std::string path = root_.string() + "/a:" + root_.string() + "/b::" + root_.string() + "/c";
  EXPECT_THAT(FindProgram("prog", path), Eq(std::nullopt));  // there, but not executable
  chmod((root_.string() + "/c/prog").c_str(), 0755);
  EXPECT_THAT(FindProgram("prog", path), Optional(root_.string() + "/c/prog"));
  EXPECT_THAT(FindProgram("prog", ""), Eq(std::nullopt));
}

}  // namespace
}  // namespace lombard::doctor
