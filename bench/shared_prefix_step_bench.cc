// A whole decode step of a batch that shares one prefix, against what its parts would take at the rates this
// machine reaches in the same run:
//
//   weights (a step without attention) + prefix FLOPs / matrix rate + exponentials / exp rate
//     + private KV bytes / memory bandwidth
//
//   lombard model create --preset llama-3.2-1b --output m
//   shared_prefix_step_bench m [--prefix 16384] [--batch 64] [--suffix 64] [--rounds 5] [--threads 2]
//
// KV is noise: attention takes as long whatever is attended to. The exp rate is that of SwiGlu, which has one
// exponential and five other operations per element.
#include <cstdlib>
#include <cstring>
#include <random>

#include "base/check.h"
#include "bench/bench_support.h"
#include "bench/matrix_product.h"
#include "kernels/elementwise.h"
#include "runtime/engine/cpu_machine.h"

namespace lombard::bench {
namespace {

constexpr int kBlock = 32;

struct Options {
  int prefix = 16384, batch = 64, suffix = 64, rounds = 5, threads = 2;
};

StepWork MakeStep(const Options& options) {
  StepWork work{.step = 1};
  const int shared = options.prefix / kBlock, own = (options.suffix + kBlock - 1) / kBlock;
  SharedSpan span{.span = {.token_count = options.prefix}};
  for (int b = 0; b < shared; ++b) span.span.blocks.push_back(BlockId(b));
  for (int i = 0; i < options.batch; ++i) {
    const int position = options.prefix + options.suffix - 1;
    LocalSpan tail{.first_position = options.prefix, .token_count = options.suffix};
    for (int b = 0; b < own; ++b) tail.blocks.push_back(BlockId(shared + i * own + b));
    work.plan.new_kv.push_back({tail.blocks.back(), (options.suffix - 1) % kBlock});
    work.plan.sequences.push_back({.first_row = i, .rows = 1, .first_position = position, .spans = {tail}});
    span.readers.push_back(i);
    work.input.tokens.push_back(i);
    work.input.positions.push_back(position);
    work.input.logit_rows.push_back(i);
  }
  work.plan.shared.push_back(std::move(span));
  return work;
}

void FillWithNoise(const KvStorage& storage, int blocks) {
  std::minstd_rand random(1);
  std::vector<uint16_t> noise(static_cast<size_t>(storage.layout().block_elements()));
  for (uint16_t& value : noise) value = BF16FromFloat(static_cast<float>(random() % 2001) / 1000.0f - 1);
  for (int layer = 0; layer < storage.layers(); ++layer) {
    for (int b = 0; b < blocks; ++b) {
      std::memcpy(storage.k(layer, BlockId(b)), noise.data(), noise.size() * 2);
      std::memcpy(storage.v(layer, BlockId(b)), noise.data(), noise.size() * 2);
    }
  }
}

int Run(const std::string& dir, const Options& options) {
  auto model = Model::Load(dir);
  if (!model.ok()) {
    std::fprintf(stderr, "%s\n", std::string(model.status().message()).c_str());
    return 1;
  }
  const ModelConfig& c = (*model)->config();
  if (c.dtype != DType::kBF16) {
    std::fprintf(stderr, "%s: the benchmark is for bf16\n", dir.c_str());
    return 1;
  }
  const std::unique_ptr<ThreadPool> pinned = MakePinnedPool(options.threads);
  ThreadPool& pool = *pinned;
  const CpuContext context{DetectIsa(), &pool};
  PrintMachine(pool);
  const StepWork work = MakeStep(options);
  const int blocks = options.prefix / kBlock + options.batch * ((options.suffix + kBlock - 1) / kBlock);
  auto storage = KvStorage::Create(
      {.dtype = c.dtype, .kv_heads = c.kv_heads, .head_dim = c.head_dim, .block_tokens = kBlock}, c.layers,
      blocks);
  CHECK_OK(storage.status());
  FillWithNoise(**storage, blocks);
  CpuMachine machine(model->get(), context, storage->get(), nullptr);
  Transformer transformer(model->get(), context);
  std::vector<float> logits;

  constexpr size_t kBytes = size_t{1} << 29;
  constexpr int64_t kElements = int64_t{1} << 16;
  char* memory = MapBytes(kBytes);
  std::memset(memory, 1, kBytes);
  MatrixProduct product;
  std::vector<float> gate(2 * kElements, 0.3f), up(gate), silu(gate);
  std::vector<Case> cases;
  cases.push_back({"step", 1, [&] { CHECK_OK(machine.Run(work).status()); }});
  cases.push_back({"weights", 1, [&] {
                     CHECK_OK(transformer.Forward(
                         work.input,
                         [&](int, float* q, const float*, const float*, float* out) {
                           std::memcpy(out, q, sizeof(float) * options.batch * c.q_heads * c.head_dim);
                           return absl::OkStatus();
                         },
                         &logits));
                   }});
  cases.push_back({"matrix", 20 * product.operations(), [&] {
                     for (int i = 0; i < 20; ++i) product.Run(context);
                   }});
  cases.push_back({"exp", 200.0 * 2 * kElements, [&] {
                     for (int i = 0; i < 200; ++i) {
                       SwiGlu(context, {.gate = gate.data(),
                                        .up = up.data(),
                                        .y = silu.data(),
                                        .rows = 32,
                                        .dim = 2 * kElements / 32,
                                        .in_stride = 2 * kElements / 32,
                                        .y_stride = 2 * kElements / 32});
                     }
                   }});
  cases.push_back({"memory", kBytes, [&] { ReadAll<1>(pool, memory, kBytes); }});
  cases.push_back({"memory", kBytes, [&] { ReadAll<4>(pool, memory, kBytes); }});
  RunInterleaved(cases, options.rounds, Clock::kWall);

  const double step = 1 / Median(cases[0].rates), weights = 1 / Median(cases[1].rates);
  const double matrix = *std::max_element(cases[2].rates.begin(), cases[2].rates.end());
  const double exps = Median(cases[3].rates),
               bytes = std::max(Median(cases[4].rates), Median(cases[5].rates));
  const double pairs = double(options.batch) * options.prefix * c.q_heads * c.layers;
  const double prefix = 4 * pairs * c.head_dim / matrix, exponentials = pairs / exps;
  const double own = double(options.batch) * options.suffix * c.KvBytesPerToken(c.dtype) / bytes;
  const double sum = weights + prefix + exponentials + own;
  std::printf("# isa %s; prefix %d, batch %d, suffix %d, %d rounds, medians (matrix rate: the best)\n",
              std::string(IsaName(context.isa)).c_str(), options.prefix, options.batch, options.suffix,
              options.rounds);
  std::printf("# measured: %.1f GFLOP/s, %.2f G exponentials/s, %.1f GB/s\n", 1e-9 * matrix, 1e-9 * exps,
              1e-9 * bytes);
  std::printf(
      "| step, ms | weights | prefix FLOPs | exponentials | private KV | sum of parts | step / sum |\n");
  std::printf("|---|---|---|---|---|---|---|\n| %.0f | %.0f | %.0f | %.0f | %.1f | %.0f | %.2f |\n",
              1e3 * step, 1e3 * weights, 1e3 * prefix, 1e3 * exponentials, 1e3 * own, 1e3 * sum, step / sum);
  return 0;
}

}  // namespace
}  // namespace lombard::bench

int main(int argc, char** argv) {
  lombard::bench::Options options;
  if (argc < 2) {
    std::fprintf(stderr,
                 "usage: shared_prefix_step_bench MODEL_DIR [--prefix N] [--batch N] [--suffix N] [--rounds "
                 "N] [--threads N]\n");
    return 2;
  }
  for (int i = 2; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    const int value = std::max(1, std::atoi(argv[i + 1]));
    if (flag == "--prefix") options.prefix = (value + 31) / 32 * 32;
    if (flag == "--batch") options.batch = value;
    if (flag == "--suffix") options.suffix = value;
    if (flag == "--rounds") options.rounds = value;
    if (flag == "--threads") options.threads = value;
  }
  return lombard::bench::Run(argv[1], options);
}
