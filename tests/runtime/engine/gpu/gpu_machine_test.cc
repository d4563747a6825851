// Goal: workers that compute on a GPU give the golden tokens, alone and lending to each other. Method: whole
// in-process clusters; in gpu_machine_test_emulated every kernel, copy and stream is the emulated device's,
// in an order drawn from the seed, and free blocks hold NaN. The goldens are float64's: a run may differ
// first where the two best logits are closer than the dtype can tell (design: 0.001 in fp32, 0.05 in bf16).
#include "runtime/engine/gpu/gpu_machine.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/device/gpu_info.h"
#include "base/device/gpu_memory.h"
#include "runtime/engine/cpu_compute.h"
#include "runtime/engine/gpu/gpu_setup.h"
#include "runtime/model/dummy_model.h"
#include "tests/support/cluster_run.h"
#include "tests/support/golden_file.h"
#ifdef LOMBARD_EMULATED_GPU
#include "tests/emulation/emulated_device.h"
#endif

namespace lombard {
namespace {

constexpr uint32_t kBlock = 16;  // tokens

class GpuMachineTest : public testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    const GpuSearch found = FindGpus();
    if (found.gpus.empty()) GTEST_SKIP() << "no GPU: " << found.reason;
    device_ = found.gpus[0].device;
  }

  void LoadModel(const std::string& name) {
    auto model = Model::Load(TestPath("tests/data/" + name));
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
    auto tokenizer = Tokenizer::Load(TestPath("tests/data/" + name));
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *std::move(tokenizer);
    auto gpu_model = GpuModel::Load(*model_, device_);
    ASSERT_TRUE(gpu_model.ok()) << gpu_model.status();
    gpu_model_ = *gpu_model;
    goldens_ = ReadGoldens(TestPath("tests/data/" + name + "-golden.json"));
  }

  WorkerSettings Settings(std::vector<uint32_t> kv_blocks, size_t graphs_max = kGpuGraphsMax) const {
    WorkerSettings settings = TestSettings(*model_, std::move(kv_blocks), kBlock);
    settings.engine.max_batch_tokens = 48;  // longer prompts are prefilled in chunks
    settings.compute = [this, graphs_max](const Model*, const KvLayout& layout, uint32_t blocks) {
      return MakeGpuCompute(gpu_model_, {.rows_max = 48, .logits_max = 8, .graphs_max = graphs_max}, layout,
                            blocks);
    };
    return settings;
  }

  ClusterRun Run(const WorkerSettings& settings, const std::vector<TestSequence>& sequences) const {
    auto run = RunOnCluster(settings, *model_, *tokenizer_, sequences);
    EXPECT_TRUE(run.ok()) << run.status();
    if (!run.ok()) return {};
    EXPECT_TRUE(run->invariants.ok()) << run->invariants;
    return *std::move(run);
  }

  // The goldens of these numbers, together.
  void ExpectGoldens(const WorkerSettings& settings, const std::vector<int>& numbers, uint32_t max_tokens,
                     double bound, ClusterRun* run = nullptr) {
    std::vector<TestSequence> sequences;
    for (const int number : numbers) {
      sequences.push_back(
          {.prompt = goldens_[number].prompt_ids, .sampling = Greedy(max_tokens), .home = InstanceId{0}});
    }
    const ClusterRun done = Run(settings, sequences);
    ASSERT_EQ(done.results.size(), numbers.size());
    for (size_t i = 0; i < numbers.size(); ++i) {
      ASSERT_TRUE(done.results[i].error.ok()) << done.results[i].error;
      ASSERT_EQ(done.results[i].token_ids.size(), max_tokens);
      GoldenCase golden = goldens_[numbers[i]];
      golden.greedy_ids.resize(max_tokens), golden.gaps.resize(max_tokens);
      EXPECT_EQ(GoldenMismatch(golden, done.results[i].token_ids, bound), "") << "golden " << numbers[i];
    }
    if (run != nullptr) *run = done;
  }

#ifdef LOMBARD_EMULATED_GPU
  emulation::ScopedSeed seed_{static_cast<uint64_t>(GetParam())};
#endif
  int device_ = 0;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::shared_ptr<const GpuModel> gpu_model_;
  std::vector<GoldenCase> goldens_;
};

TEST_P(GpuMachineTest, GivesTheGoldenTokensInFp32) {
  LoadModel("tiny");
  ExpectGoldens(Settings({20}), {1, 2, 3}, 5, 0.001);
}

TEST_P(GpuMachineTest, GivesTheGoldenTokensInBf16) {
  LoadModel("tiny-bf16");
  ExpectGoldens(Settings({20}), {4}, 5, 0.05);
}

// Batches of three, two and one: each size is filled up, seen, recorded and launched. Then one more of a size
// that is recorded, with a longer block table.
TEST_P(GpuMachineTest, GivesTheSameTokensWithAndWithoutGraphs) {
  LoadModel("tiny");
  std::vector<TestSequence> sequences;
  for (int i = 0; i < 4; ++i) {
    std::vector<int32_t> prompt(i < 3 ? 3 : 24);
    for (size_t t = 0; t < prompt.size(); ++t)
      prompt[t] = static_cast<int32_t>((31 * t * t + 7 * t + i) % 250);
    sequences.push_back(
        {.prompt = std::move(prompt), .sampling = Greedy(i < 3 ? 4 + 3 * i : 4), .wave = i / 3});
  }
  ClusterRun plain;
  for (const size_t graphs_max : {size_t{0}, kGpuGraphsMax}) {
#ifdef LOMBARD_EMULATED_GPU
    const uint64_t launched = emulation::GraphLaunches();
#endif
    WorkerSettings settings = Settings({40}, graphs_max);
    settings.engine.block_tokens = 4;
    const ClusterRun run = Run(settings, sequences);
    ASSERT_EQ(run.results.size(), sequences.size());
#ifdef LOMBARD_EMULATED_GPU
    EXPECT_EQ(emulation::GraphLaunches() - launched > 5, graphs_max > 0);
#endif
    if (graphs_max == 0) plain = run;
    for (size_t i = 0; i < sequences.size(); ++i) {
      EXPECT_TRUE(run.results[i].error.ok()) << run.results[i].error;
      EXPECT_EQ(run.results[i].token_ids, plain.results[i].token_ids) << graphs_max << " graphs, " << i;
      for (size_t t = 0; t < run.results[i].logprobs.size(); ++t)
        EXPECT_NEAR(run.results[i].logprobs[t], plain.results[i].logprobs[t], 1e-4) << i << ", " << t;
    }
  }
}

TEST_P(GpuMachineTest, ReadsSharedPrefixesOnceForAllAndGivesTheSameTokens) {
  LoadModel("tiny");
  std::vector<TestSequence> sequences;
  for (int i = 0; i < 3; ++i) {
    TestSequence sequence{.prompt = goldens_[3].prompt_ids, .sampling = Greedy(3)};
    sequence.prompt.push_back(100 + i);
    sequences.push_back(sequence);
  }
  WorkerSettings settings = Settings({24});
  settings.sharing = SharingCost::OfReading(1);
  const ClusterRun on_gpu = Run(settings, sequences);
  settings.sharing = SharingCost::Never();
  const ClusterRun apart = Run(settings, sequences);
  settings.compute = nullptr;
  const ClusterRun on_cpu = Run(settings, sequences);
  ASSERT_EQ(on_gpu.results.size(), 3u);
  EXPECT_LT(on_gpu.reports[0].keys_read(), apart.reports[0].keys_read());
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(on_gpu.results[i].token_ids, on_cpu.results[i].token_ids) << i;
    for (size_t t = 0; t < on_gpu.results[i].logprobs.size(); ++t)
      EXPECT_NEAR(on_gpu.results[i].logprobs[t], on_cpu.results[i].logprobs[t], 1e-3) << i << ", " << t;
  }
}

TEST_P(GpuMachineTest, ReadersElsewhereOfAPrefixAreOneProductAndGetTheSameTokens) {
  LoadModel("tiny");
  std::vector<TestSequence> sequences;
  for (int i = 0; i < 4; ++i) {
    TestSequence sequence{.prompt = goldens_[3].prompt_ids, .sampling = Greedy(3)};
    sequence.prompt.push_back(100 + i);
    sequence.home = InstanceId(i == 0 ? 0 : 1), sequence.wave = i == 0 ? 0 : 1;
    sequences.push_back(sequence);
  }
  WorkerSettings settings = Settings({24, 24});
  settings.engine.remote_prefix_min = kBlock, settings.engine.copy_prefixes = false;
  settings.guard = 1e6;
  const ClusterRun on_gpu = Run(settings, sequences);
  settings.compute = nullptr, settings.engine.prefix_cache = false;
  const ClusterRun on_cpu = Run(settings, sequences);
  ASSERT_EQ(on_gpu.results.size(), 4u);
  const uint64_t head = goldens_[3].prompt_ids.size() / kBlock * kBlock;
  const RemoteService::Counters& served = on_gpu.services[0];
  EXPECT_GT(served.products, 0u);
  EXPECT_LE(served.products, model_->config().layers * on_gpu.reports[1].remote_steps());
  EXPECT_EQ(served.keys, served.products * head);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(on_gpu.results[i].token_ids, on_cpu.results[i].token_ids) << i;
    for (size_t t = 0; t < on_gpu.results[i].logprobs.size(); ++t)
      EXPECT_NEAR(on_gpu.results[i].logprobs[t], on_cpu.results[i].logprobs[t], 1e-3) << i << ", " << t;
  }
}

TEST_P(GpuMachineTest, LendsAndBorrowsAndGivesTheGoldenTokens) {
#ifdef LOMBARD_EMULATED_GPU
  const emulation::ScopedLateStreams late;  // a block that is sent too early still has NaN in it
#endif
  for (const std::string name : {"tiny", "tiny-bf16"}) {
    LoadModel(name);
    ClusterRun run;
    WorkerSettings settings = Settings({4, 12});
    const bool direct = name == "tiny";
    if (!direct) settings.gpu_direct = false;
    ExpectGoldens(settings, {4}, 6, name == "tiny" ? 0.001 : 0.05, &run);
    ASSERT_EQ(run.services.size(), 2u);
    EXPECT_GT(run.services[1].queries, 0u);
    EXPECT_GT(run.services[1].blocks_written, 0u);
    EXPECT_EQ(run.services[1].blocks_direct, direct ? run.services[1].blocks_written : 0u);
  }
}

// A debtor on a CPU, a creditor on a GPU: the wire does not know who computes.
TEST_P(GpuMachineTest, ServesADebtorOnACpu) {
  LoadModel("tiny");
  WorkerSettings settings = Settings({4, 12});
  const MakeCompute gpu = settings.compute;
  settings.compute = [&](const Model* model, const KvLayout& layout,
                         uint32_t blocks) -> absl::StatusOr<std::unique_ptr<Compute>> {
    if (blocks == 12) return gpu(model, layout, blocks);
    return MakeCpuCompute(model, layout, blocks, DetectIsa(), 1, 1);
  };
  ClusterRun run;
  ExpectGoldens(settings, {4}, 6, 0.001, &run);
  ASSERT_EQ(run.services.size(), 2u);
  EXPECT_GT(run.services[1].queries, 0u);
  EXPECT_EQ(run.services[1].blocks_direct, 0u);
}

TEST_P(GpuMachineTest, RunsOnWeightsThatAreMadeUp) {
  auto dummy = MakeDummyModel(TestPath("tests/data/tiny-bf16"));
  ASSERT_TRUE(dummy.ok()) << dummy.status();
  LoadModel("tiny-bf16");
  auto on_gpu = GpuModel::Load(**dummy, device_);
  ASSERT_TRUE(on_gpu.ok()) << on_gpu.status();
  EXPECT_EQ((*on_gpu)->bytes(), gpu_model_->bytes());
  gpu_model_ = *on_gpu;
  const ClusterRun run = Run(Settings({8}), {{.prompt = {1, 2, 3}, .sampling = Greedy(3)}});
  ASSERT_EQ(run.results.size(), 1u);
  EXPECT_TRUE(run.results[0].error.ok()) << run.results[0].error;
  EXPECT_EQ(run.results[0].token_ids.size(), 3u);
  for (const float logprob : run.results[0].logprobs) EXPECT_TRUE(std::isfinite(logprob)) << logprob;
}

TEST_P(GpuMachineTest, WithoutRoomTheErrorSaysWhatWasAsked) {
  LoadModel("tiny");
  const auto use = QueryGpuMemory(device_);
  ASSERT_TRUE(use.ok()) << use.status();
  const KvLayout layout{
      .kv_heads = model_->config().kv_heads, .head_dim = model_->config().head_dim, .block_tokens = kBlock};
  const uint64_t block_bytes = KvBytes::BlockBytes(layout, model_->config().layers);
  const WorkerSettings settings = Settings({static_cast<uint32_t>(2 * use->total_bytes / block_bytes)});
  auto run = RunOnCluster(settings, *model_, *tokenizer_, {});
  EXPECT_EQ(run.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(run.status().message().find("--kv-tokens"), std::string::npos) << run.status();
}

TEST_P(GpuMachineTest, TheKvBudgetIsWhatWeightsAndAStepLeave) {
  LoadModel("tiny");
#ifdef LOMBARD_EMULATED_GPU
  emulation::SetMemoryBytes(12 << 20);
#endif
  GpuSetupOptions options{.device = device_, .utilization = 0.7, .rows_max = 16, .logits_max = 8};
  options.block_tokens = kBlock;
  const auto use = QueryGpuMemory(device_);
  const auto setup = SetUpGpu(*model_, options);
  options.workers = 2;
  const auto two = SetUpGpu(*model_, options);
  options.utilization = 0.001;
  const auto none = SetUpGpu(*model_, options);
  if (setup.ok()) {
    EXPECT_TRUE(setup->MakeFactory()(model_.get(), setup->layout, setup->kv_blocks()).ok());
    WorkerSettings settings = Settings({std::min(setup->kv_blocks(), 50u)});
    settings.compute = setup->MakeFactory();
    ExpectGoldens(settings, {1}, 2, 0.001);
  }
#ifdef LOMBARD_EMULATED_GPU
  emulation::SetMemoryBytes(uint64_t{1} << 30);
  EXPECT_EQ(none.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(none.status().message().find("leaves no room for KV"), std::string::npos) << none.status();
#endif
  ASSERT_TRUE(setup.ok()) << setup.status();
  ASSERT_TRUE(two.ok()) << two.status();
  EXPECT_LT(two->kv_bytes, setup->kv_bytes / 2) << "each has a step's scratch, both one copy of the weights";
  EXPECT_LT(setup->model->bytes() + setup->kv_bytes, 0.7 * static_cast<double>(use->free_bytes));
  EXPECT_GT(setup->kv_bytes, 0.2 * static_cast<double>(use->free_bytes));
}

#ifdef LOMBARD_EMULATED_GPU
TEST_P(GpuMachineTest, WhoStartsOnTheSameGpuMeanwhileDoesNotCountAsAStep) {
  LoadModel("tiny");
  constexpr uint64_t kGiB = uint64_t{1} << 30;
  emulation::SetMemoryBytes(64 * kGiB);
  GpuSetupOptions options{.device = device_, .sharers = 2, .rows_max = 16, .logits_max = 8};
  options.block_tokens = kBlock;
  const auto alone = SetUpGpu(*model_, options);
  absl::StatusOr<GpuSetup> together = absl::UnknownError("");
  {
    const emulation::ScopedNeighbor neighbor(30 * kGiB);
    together = SetUpGpu(*model_, options);
  }
  ASSERT_TRUE(alone.ok()) << alone.status();
  ASSERT_TRUE(together.ok()) << together.status();
  EXPECT_LE(together->kv_bytes, alone->kv_bytes);
  EXPECT_GE(together->kv_bytes, alone->kv_bytes - kGiB)
      << "what libraries may take, not what the neighbor has";
  // All that a machine takes is known: on this device no library takes more.
  auto storage = *GpuKvStorage::Create(device_, alone->layout, model_->config().layers, 1);
  const auto free_bytes = [&] { return QueryGpuMemory(device_)->free_bytes; };
  const uint64_t before = free_bytes();
  auto machine = *GpuMachine::Create(alone->model, storage.get(), nullptr);
  ASSERT_TRUE(machine->Reserve(16, 8).ok());
  const SamplingParams greedy;
  StepWork work;
  SequenceRows sequence{.rows = 1};
  sequence.spans.push_back(LocalSpan{.blocks = {BlockId(0)}, .token_count = 1});
  work.plan.sequences.push_back(std::move(sequence));
  work.plan.new_kv.push_back({BlockId(0), 0});
  work.input.tokens = {0}, work.input.positions = {0}, work.input.logit_rows = {0};
  work.input.sampling.push_back({.params = &greedy});
  const auto ran = machine->Run(work);
  ASSERT_TRUE(ran.ok()) << ran.status();
  EXPECT_EQ(before - free_bytes(), machine->device_bytes());
  emulation::SetMemoryBytes(kGiB);
}

TEST_P(GpuMachineTest, AKvBudgetThatIsGivenIsNotRefusedForWhatIsLeft) {
  LoadModel("tiny");
  GpuSetupOptions options{.device = device_, .utilization = 1e-9, .rows_max = 16, .logits_max = 8};
  options.block_tokens = kBlock;
  EXPECT_EQ(SetUpGpu(*model_, options).status().code(), absl::StatusCode::kResourceExhausted);
  options.kv_given = true;
  const auto setup = SetUpGpu(*model_, options);
  ASSERT_TRUE(setup.ok()) << setup.status();
  const uint64_t held = QueryGpuMemory(device_)->total_bytes - QueryGpuMemory(device_)->free_bytes;
  emulation::SetMemoryBytes(held + setup->model->bytes() + 1024);  // nor for what the largest step would want
  const auto tight = SetUpGpu(*model_, options);
  emulation::SetMemoryBytes(uint64_t{1} << 30);
  EXPECT_TRUE(tight.ok()) << tight.status();
}

TEST_P(GpuMachineTest, WhenTheDeviceFailsTheJobEndsAndSaysWhy) {
  LoadModel("tiny");
  WorkerSettings settings = Settings({8});
  settings.compute = [this](const Model*, const KvLayout& layout, uint32_t blocks) {
    auto compute = MakeGpuCompute(gpu_model_, {}, layout, blocks);
    emulation::SetMemoryBytes(1);  // nothing is left for the first step's scratch
    return compute;
  };
  const auto run = RunOnCluster(settings, *model_, *tokenizer_, {{.prompt = {1, 2}, .sampling = Greedy(2)}});
  emulation::SetMemoryBytes(uint64_t{1} << 30);
  EXPECT_EQ(run.status().code(), absl::StatusCode::kResourceExhausted) << run.status();
  EXPECT_NE(run.status().message().find("a step of 2 rows"), std::string::npos) << run.status();
}
#endif

// One seed, since it takes seconds; kernels have tests of their own with several.
INSTANTIATE_TEST_SUITE_P(Seed, GpuMachineTest, testing::Values(1));

}  // namespace
}  // namespace lombard
