#include "runtime/cli/device_choice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lombard {
namespace {

using testing::HasSubstr;

GpuSearch Gpus(int count) {
  GpuSearch found;
  for (int i = 0; i < count; ++i) found.gpus.push_back({.device = 10 + i});
  if (count == 0) found.reason = "no NVIDIA driver";
  return found;
}

WorkerOptions Wish(std::optional<DeviceWish> wish) {
  WorkerOptions options;
  options.device = wish;
  return options;
}

TEST(ChooseDevice, RanksOfAHostTakeItsGpusInTurn) {
  const int expected_sharers[] = {3, 2};
  for (int local_rank = 0; local_rank < 5; ++local_rank) {
    const RankPlace place{.rank = 7, .size = 9, .local_rank = local_rank, .local_size = 5};
    const auto choice = ChooseDevice(Wish(DeviceWish::kAuto), {}, place, [] { return Gpus(2); });
    ASSERT_TRUE(choice.ok()) << choice.status();
    EXPECT_EQ(choice->gpu, 10 + local_rank % 2);
    EXPECT_EQ(choice->sharers, expected_sharers[local_rank % 2]);
    EXPECT_EQ(choice->remark, "");
  }
}

TEST(ChooseDevice, AKvBudgetIsGivenByAFlagOrForEveryWorkerOfTheProcess) {
  const auto given = [](const WorkerOptions& options, const ClusterConfig& cluster) {
    return ChooseDevice(options, cluster, {.rank = 1, .size = 3}, [] { return Gpus(1); })->kv_given;
  };
  WorkerOptions options = Wish(DeviceWish::kCuda);
  ClusterConfig cluster;
  EXPECT_FALSE(given(options, cluster));
  cluster.instances.resize(3);
  EXPECT_FALSE(given(options, cluster));
  cluster.instances[1].kv_tokens = 100;
  EXPECT_TRUE(given(options, cluster));
  options.in_process = 2;
  EXPECT_FALSE(given(options, cluster));
  cluster.instances[2].kv_bytes = 1 << 20;
  EXPECT_TRUE(given(options, cluster));
  options.kv.bytes.push_back(1 << 20);
  EXPECT_TRUE(given(options, {}));
}

TEST(ChooseDevice, WhoAsksForNothingComputesOnTheCpu) {
  bool searched = false;
  const auto choice = ChooseDevice(Wish(std::nullopt), {}, {}, [&] {
    searched = true;
    return Gpus(2);
  });
  ASSERT_TRUE(choice.ok());
  EXPECT_FALSE(searched);
  EXPECT_FALSE(choice->gpu.has_value());
  EXPECT_EQ(choice->remark, "");
}

TEST(ChooseDevice, WithoutAGpuAutoIsTheCpuAndSaysSo) {
  const auto asked = ChooseDevice(Wish(DeviceWish::kAuto), {}, {}, [] { return Gpus(0); });
  ASSERT_TRUE(asked.ok());
  EXPECT_FALSE(asked->gpu.has_value());
  EXPECT_THAT(asked->remark, HasSubstr("no NVIDIA driver"));
}

TEST(ChooseDevice, WithoutAGpuCudaIsAnErrorWithTheReason) {
  const absl::Status status = ChooseDevice(Wish(DeviceWish::kCuda), {}, {}, [] { return Gpus(0); }).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("--device cuda, but no NVIDIA driver"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("--device cpu"));
}

TEST(ChooseDevice, TheFlagWinsOverTheClusterFile) {
  ClusterConfig cluster;
  cluster.instances.resize(2);
  cluster.instances[1].device = DeviceKind::kCuda;
  const RankPlace first{.rank = 0, .size = 2, .local_rank = 0, .local_size = 1}, second{.rank = 1, .size = 2};
  EXPECT_FALSE(ChooseDevice(Wish(std::nullopt), cluster, first, [] { return Gpus(1); })->gpu.has_value());
  EXPECT_TRUE(ChooseDevice(Wish(std::nullopt), cluster, second, [] { return Gpus(1); })->gpu.has_value());
  EXPECT_TRUE(ChooseDevice(Wish(DeviceWish::kAuto), cluster, first, [] { return Gpus(1); })->gpu.has_value());
  EXPECT_FALSE(
      ChooseDevice(Wish(DeviceWish::kCpu), cluster, second, [] { return Gpus(1); })->gpu.has_value());
  const absl::Status none =
      ChooseDevice(Wish(std::nullopt), cluster, second, [] { return Gpus(0); }).status();
  EXPECT_THAT(std::string(none.message()), HasSubstr("instance 1 wants device: cuda"));
}

}  // namespace
}  // namespace lombard
