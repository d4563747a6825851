// What the prefix cache costs requests that share nothing: decode steps of two engines over one model, one
// with the cache and one without, in turns; whole steps from Begin to Finish.
//
//   prefix_overhead_bench MODEL_DIR [--batch 16] [--prompt 128] [--steps 200] [--threads 2]
//
// Prints the mean of the paired ratios on / off with its 95 % confidence interval (of the logarithms;
// normal).
#include <cmath>
#include <cstdlib>
#include <random>

#include "base/check.h"
#include "bench/bench_support.h"
#include "distattn/sharing_profile.h"
#include "runtime/engine/cpu_machine.h"

namespace lombard::bench {
namespace {

constexpr int kBlock = 32;

struct Options {
  int batch = 16, prompt = 128, steps = 200, threads = 2;
};

struct Lane {
  std::unique_ptr<KvStorage> storage;
  std::unique_ptr<KvPool> pool;
  std::unique_ptr<RManager> rmanager;
  std::unique_ptr<CpuMachine> machine;
  std::unique_ptr<Engine> engine;

  double Step() {
    const double start = Seconds(Clock::kWall);
    const StepWork* work = engine->Begin(absl::Now());
    CHECK(work != nullptr);
    engine->Finish(machine->Run(*work), absl::Now());
    engine->TakeOutputs();
    return Seconds(Clock::kWall) - start;
  }
};

Lane MakeLane(const Model& model, const Tokenizer& tokenizer, const CpuContext& context,
              const Options& options, bool cache) {
  const ModelConfig& c = model.config();
  const KvLayout layout{
      .dtype = c.dtype, .kv_heads = c.kv_heads, .head_dim = c.head_dim, .block_tokens = kBlock};
  const uint32_t tokens = options.prompt + options.steps + 8;
  const uint32_t blocks = options.batch * (tokens / kBlock + 2);
  Lane lane;
  auto storage = KvStorage::Create(layout, c.layers, blocks);
  CHECK_OK(storage.status());
  lane.storage = *std::move(storage);
  lane.pool = std::make_unique<KvPool>(blocks);
  lane.rmanager = std::make_unique<RManager>(RManagerOptions{}, lane.pool.get());
  lane.machine = std::make_unique<CpuMachine>(&model, context, lane.storage.get(), nullptr);
  EngineOptions engine{.block_tokens = kBlock,
                       .max_model_len = 1u << 20,
                       .cluster_blocks = blocks,
                       .lending = false,
                       .prefix_cache = cache};
  if (cache) engine.sharing = MeasureSharing(ShapeOf(c), layout, context, absl::Milliseconds(50));
  lane.engine = std::make_unique<Engine>(engine, DescribeForEngine(model, layout), &tokenizer,
                                         lane.pool.get(), lane.rmanager.get(), lane.machine.get());
  std::minstd_rand random(7);  // the same prompts in both lanes
  for (int i = 0; i < options.batch; ++i) {
    SequenceRequest request{.id = {1, static_cast<uint64_t>(i + 1)}};
    for (int t = 0; t < options.prompt; ++t)
      request.prompt.push_back(static_cast<int32_t>(random() % static_cast<unsigned>(c.vocab_size)));
    request.sampling.max_tokens = static_cast<uint32_t>(options.steps) + 8;
    request.sampling.temperature = 0;
    request.sampling.ignore_eos = true;
    lane.engine->Submit(std::move(request), absl::Now());
  }
  for (int i = 0; i * 512 <= options.batch * options.prompt; ++i) lane.Step();  // prefill
  return lane;
}

int Run(const std::string& dir, const Options& options) {
  auto model = Model::Load(dir);
  auto tokenizer = Tokenizer::Load(dir);
  if (!model.ok() || !tokenizer.ok()) {
    const absl::Status& why = model.ok() ? tokenizer.status() : model.status();
    std::fprintf(stderr, "%s\n", std::string(why.message()).c_str());
    return 1;
  }
  const std::unique_ptr<ThreadPool> pinned = MakePinnedPool(options.threads);
  ThreadPool& pool = *pinned;
  const CpuContext context{DetectIsa(), &pool};
  PrintMachine(pool);
  Lane off = MakeLane(**model, **tokenizer, context, options, false);
  Lane on = MakeLane(**model, **tokenizer, context, options, true);
  std::vector<double> logs, off_seconds;
  for (int i = 0; i < options.steps; ++i) {
    double seconds[2];
    for (const int turn : {0, 1}) {  // off and on, on and off
      const bool cache = (turn == 1) != (i % 2 == 1);
      seconds[cache] = (cache ? on : off).Step();
    }
    logs.push_back(std::log(seconds[1] / seconds[0]));
    off_seconds.push_back(seconds[0]);
  }
  const double n = static_cast<double>(logs.size());
  double mean = 0, variance = 0;
  for (const double value : logs) mean += value / n;
  for (const double value : logs) variance += (value - mean) * (value - mean) / (n - 1);
  const double half = 1.96 * std::sqrt(variance / n);
  std::printf("# isa %s, batch %d, prompts of %d tokens that share nothing, %d pairs of steps\n",
              std::string(IsaName(context.isa)).c_str(), options.batch, options.prompt, options.steps);
  std::printf(
      "| step without, ms (median) | on / off, mean | 95 %% interval | median |\n|---|---|---|---|\n");
  std::printf("| %.3f | %.4f | %.4f to %.4f | %.4f |\n", 1e3 * Median(off_seconds), std::exp(mean),
              std::exp(mean - half), std::exp(mean + half), std::exp(Median(logs)));
  return 0;
}

}  // namespace
}  // namespace lombard::bench

int main(int argc, char** argv) {
  lombard::bench::Options options;
  if (argc < 2) {
    std::fprintf(
        stderr,
        "usage: prefix_overhead_bench MODEL_DIR [--batch N] [--prompt N] [--steps N] [--threads N]\n");
    return 2;
  }
  for (int i = 2; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    const int value = std::max(1, std::atoi(argv[i + 1]));
    if (flag == "--batch") options.batch = value;
    if (flag == "--prompt") options.prompt = value;
    if (flag == "--steps") options.steps = value;
    if (flag == "--threads") options.threads = value;
  }
  return lombard::bench::Run(argv[1], options);
}
