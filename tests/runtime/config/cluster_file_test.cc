// Goal: a cluster file means what its comments say, and whatever is wrong is reported with file, line and
// value.
#include "runtime/config/cluster_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "tests/support/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace lombard {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr char kEverything[] = R"(instances:
  - ranks: 2
    device: cuda
    threads: 3
    kv_tokens: 4096
    host: node1
  - {kv_bytes: 64MiB}
lending: {policy: lombard, reserve: 0%, lent_max: 100%, plan_period: 1s, decode_move_tokens: 32, guard: 2.5%}
links:
  - {between: host, bandwidth: 2GB/s}
  - {between: network, bandwidth: 10Gbit, latency: 50us}
)";

TEST(ClusterFile, ReadsEveryKey) {
  const auto config = ParseClusterFile(kEverything, "f.yaml");
  ASSERT_TRUE(config.ok()) << config.status();
  ASSERT_EQ(config->instances.size(), 2);
  EXPECT_EQ(config->RankCount(), 3);
  const InstanceConfig& first = config->instances[0];
  EXPECT_EQ(first.device, DeviceKind::kCuda);
  EXPECT_EQ(first.threads, 3);
  EXPECT_EQ(first.kv_tokens, 4096);
  EXPECT_EQ(first.kv_bytes, std::nullopt);
  EXPECT_EQ(first.host, "node1");
  EXPECT_EQ(config->instances[1].kv_bytes, 64u << 20);
  EXPECT_EQ(config->instances[1].device, DeviceKind::kCpu);
  EXPECT_EQ(config->lending.policy, Policy::kLombard);
  EXPECT_EQ(config->lending.reserve, 0);
  EXPECT_EQ(config->lending.lent_max, 1);
  EXPECT_EQ(config->lending.plan_period, absl::Seconds(1));
  EXPECT_EQ(config->lending.decode_move_tokens, 32);
  EXPECT_DOUBLE_EQ(config->lending.guard, 0.025);
  ASSERT_EQ(config->links.size(), 2);
  EXPECT_EQ(config->links[0].bandwidth, 2e9);
  EXPECT_EQ(config->links[0].latency, std::nullopt);
  EXPECT_EQ(config->links[1].latency, absl::Microseconds(50));
}

TEST(ClusterFile, EveryKeyIsOptional) {
  for (const char* text : {"", "# nothing\n", "---\n", "instances:\n", "lending: {}\nlinks: []\n",
                           "instances: []\nlending:\n"}) {
    const auto config = ParseClusterFile(text, "f.yaml");
    ASSERT_TRUE(config.ok()) << text << ": " << config.status();
    EXPECT_EQ(config->RankCount(), 0);
    EXPECT_EQ(config->lending.policy, Policy::kGreedy);
    EXPECT_DOUBLE_EQ(config->lending.reserve, 0.05);
    EXPECT_DOUBLE_EQ(config->lending.lent_max, 0.80);
  }
  const auto bare = ParseClusterFile("instances: [{}, {}]", "f.yaml");
  ASSERT_TRUE(bare.ok()) << bare.status();
  EXPECT_EQ(bare->RankCount(), 2);
}

TEST(ClusterFile, NamesFileLineAndValueOfWhatIsWrong) {
  struct Case {
    const char* text;
    int line;
    std::vector<const char*> mentions;
  };
  const Case cases[] = {
      {"instances:\n  - ranks: 1\nlendin: {}\n", 3, {"unknown key 'lendin'", "lending"}},
      {"instances:\n  - ranks: 1\n    kv_token: 5\n", 3, {"unknown key 'kv_token'", "kv_tokens"}},
      {"lending:\n  policy: greedy\n  reserv: 5%\n", 3, {"unknown key 'reserv'", "reserve"}},
      {"links:\n  - {between: host, speed: 5}\n", 2, {"unknown key 'speed'", "bandwidth"}},
      {"lending:\n  policy: generous\n", 2, {"policy", "'generous'", "greedy"}},
      {"lending:\n  reserve: 105%\n", 2, {"reserve", "105%"}},
      {"lending:\n  plan_period: 5\n", 2, {"plan_period", "'5'"}},
      {"lending:\n  plan_period: 0s\n", 2, {"plan_period", "'0s'"}},
      {"lending:\n  reserve: [5%]\n", 2, {"reserve", "single value"}},
      {"lending:\n  guard: 1%\n  guard: 2%\n", 3, {"'guard'", "twice"}},
      {"instances:\n\n  - ranks: 0\n", 3, {"ranks", "'0'"}},
      {"instances:\n  - ranks: 2.5\n", 2, {"ranks", "'2.5'"}},
      {"instances:\n  - ranks: 65536\n  - {}\n", 3, {"65536"}},
      {"instances:\n  - device: tpu\n", 2, {"device", "'tpu'", "cuda"}},
      {"instances:\n  - kv_tokens: 4k\n", 2, {"kv_tokens", "'4k'"}},
      {"instances:\n  - kv_bytes: 64MoB\n", 2, {"kv_bytes", "'64MoB'"}},
      {"instances:\n  - kv_bytes: 0\n", 2, {"kv_bytes", "'0'"}},
      {"instances:\n  - {kv_tokens: 1, kv_bytes: 1}\n", 2, {"kv_tokens and kv_bytes"}},
      {"instances: 4\n", 1, {"instances must be a list"}},
      {"instances:\n  - four\n", 2, {"must be a map"}},
      {"links:\n  - {bandwidth: fast}\n", 2, {"bandwidth", "'fast'"}},
      {"links:\n  - {bandwidth: 0B}\n", 2, {"bandwidth", "'0B'"}},
      {"links:\n  - {between: host}\n  - {between: host}\n", 3, {"two entries"}},
      {"- 1\n- 2\n", 1, {"must be a map"}},
      {"lending: {policy: greedy\nlinks: []\n", 2, {"not valid YAML"}},
      {"lending: {}\n---\nlending: {}\n", 2, {"second YAML document"}},
      {"? [a, b]\n: c\n", 1, {"unknown key"}},
  };
  for (const Case& c : cases) {
    const auto config = ParseClusterFile(c.text, "dir/f.yaml");
    ASSERT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument) << c.text;
    const std::string message(config.status().message());
    EXPECT_THAT(message, StartsWith(absl::StrCat("dir/f.yaml:", c.line, ": "))) << c.text;
    for (const char* mention : c.mentions) EXPECT_THAT(message, HasSubstr(mention)) << c.text;
  }
}

TEST(ClusterFile, TheExamplesInTheTreeAreValid) {
  const auto laptop = ReadClusterFile("cluster_configs/one_laptop.yaml");
  ASSERT_TRUE(laptop.ok()) << laptop.status();
  EXPECT_EQ(laptop->RankCount(), 1);
  const auto two = ReadClusterFile("cluster_configs/two_ranks.yaml");
  ASSERT_TRUE(two.ok()) << two.status();
  EXPECT_EQ(two->RankCount(), 2);
  const auto four = ReadClusterFile("cluster_configs/four_uneven_ranks.yaml");
  ASSERT_TRUE(four.ok()) << four.status();
  ASSERT_EQ(four->RankCount(), 4);
  EXPECT_EQ(four->instances[2].kv_tokens, 4096);
  EXPECT_EQ(four->lending.lent_max, 1);
}

TEST(ClusterFile, MissingFilesAreNamed) {
  const auto config = ReadClusterFile("/no/such/cluster.yaml");
  EXPECT_TRUE(absl::IsNotFound(config.status()));
  EXPECT_THAT(std::string(config.status().message()), HasSubstr("/no/such/cluster.yaml"));
}

TEST(ClusterFile, SurvivesItsFuzzCorpusAndMutations) {
  constexpr uint64_t kSeed = 1;
  SCOPED_TRACE(absl::StrCat("seed ", kSeed));
  RunFuzzCorpus(
      LLVMFuzzerTestOneInput,
      {kEverything, "a: &x [1, 2]\nb: *x\n<<: {}\n", "instances:\n- ? {}\n  : !!int 5\n--- |\n  text\n...\n"},
      1500, kSeed);
}

}  // namespace
}  // namespace lombard
