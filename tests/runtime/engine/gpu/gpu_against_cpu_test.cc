// Goal: on a model of a public shape, in bf16, a GPU chooses the tokens that CPUs choose, or differs first
// where the two best logits are closer than bf16 can tell (design: 0.05). Method: random weights, greedy; the
// shape is that of Llama 3.2 1B on a GPU, and a tiny one in fp32 (bound 0.001) on the emulated device.
#include <gtest/gtest.h>

#include <filesystem>
#include <random>
#include <thread>

#include "base/device/gpu_info.h"
#include "runtime/engine/gpu/gpu_compute.h"
#include "runtime/model/create.h"
#include "tests/support/cluster_run.h"
#include "tests/support/golden_file.h"

namespace lombard {
namespace {

#ifdef LOMBARD_EMULATED_GPU
constexpr const char* kPreset = "tiny";
constexpr int kPromptTokens[] = {5, 40}, kOutputTokens = 4;
constexpr double kBound = 0.001;
#else
constexpr const char* kPreset = "llama-3.2-1b";
constexpr int kPromptTokens[] = {20, 300, 700}, kOutputTokens = 24;
constexpr double kBound = 0.05;
#endif

class GpuAgainstCpuTest : public testing::Test {
 protected:
  void SetUp() override {
    const GpuSearch found = FindGpus();
    if (found.gpus.empty()) GTEST_SKIP() << "no GPU: " << found.reason;
    device_ = found.gpus[0].device;
    std::filesystem::remove_all(dir_);
    const absl::Status created = CreateModel(kPreset, dir_, /*seed=*/1);
    if (absl::IsResourceExhausted(created)) GTEST_SKIP() << created;
    ASSERT_TRUE(created.ok()) << created;
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  int device_ = 0;
  const std::string dir_ = testing::TempDir() + "gpu_against_cpu";
};

TEST_F(GpuAgainstCpuTest, ARandomModelGivesTheSameTokens) {
  const auto model = Model::Load(dir_);
  ASSERT_TRUE(model.ok()) << model.status();
  const auto tokenizer = Tokenizer::Load(dir_);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto on_gpu = GpuModel::Load(**model, device_);
  ASSERT_TRUE(on_gpu.ok()) << on_gpu.status();

  std::minstd_rand random(1);
  std::vector<TestSequence> sequences;
  for (const int tokens : kPromptTokens) {
    TestSequence& sequence = sequences.emplace_back();
    for (int i = 0; i < tokens; ++i) sequence.prompt.push_back(static_cast<int32_t>(random() % 256));
    sequence.sampling = Greedy(kOutputTokens);
    sequence.sampling.logprobs = 2;
  }
  WorkerSettings settings = TestSettings(**model, {64}, /*block_tokens=*/32);
  settings.threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  settings.engine.max_batch_tokens = 128;  // longer prompts are prefilled in chunks
  const auto on_cpu = RunOnCluster(settings, **model, **tokenizer, sequences);
  ASSERT_TRUE(on_cpu.ok()) << on_cpu.status();
  settings.compute = [&](const Model*, const KvLayout& layout, uint32_t blocks) {
    return MakeGpuCompute(*on_gpu, {.rows_max = 128, .logits_max = 8}, layout, blocks);
  };
  const auto gpu = RunOnCluster(settings, **model, **tokenizer, sequences);
  ASSERT_TRUE(gpu.ok()) << gpu.status();
  for (size_t i = 0; i < sequences.size(); ++i) {
    const SequenceResult& expected = on_cpu->results[i];
    GoldenCase golden{.prompt_ids = {}, .greedy_ids = expected.token_ids, .gaps = {}};
    ASSERT_EQ(golden.greedy_ids.size(), static_cast<size_t>(kOutputTokens)) << expected.error;
    for (const auto& top : expected.top_logprobs) golden.gaps.push_back(top[0].second - top[1].second);
    EXPECT_EQ(GoldenMismatch(golden, gpu->results[i].token_ids, kBound), "") << "prompt " << i;
  }
}

}  // namespace
}  // namespace lombard
