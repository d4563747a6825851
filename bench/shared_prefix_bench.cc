// Decode attention of one layer over a prefix that a whole batch shares: every sequence by itself against one
// product for all of them, in turns. Heads of llama-3.2-1b (32 query heads, 8 KV heads of 64), bf16.
//
//   shared_prefix_bench [--rounds 7] [--threads 2] [--suffix 64] [--group 4]
//   shared_prefix_bench --prompts 1      # instead: 1, 2, 4, 8 different prompts in a batch of 64
//
// Against theory: "keys" is the ratio of the keys read; "relay" is RelayAttention's (s + c + 2) / (s/b + c +
// 7) with its vectors of queries and states weighed by the heads of a group, 2g and 7g; both hold where
// reading is all there is. "roofline" takes the greater of bytes and arithmetic at the rates measured here,
// which is what binds a CPU: apart b (s + c) kappa / B or its FLOPs / F, together s kappa / B or 4 b s n_q d
// / F, and b c of the suffixes.
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>

#include "bench/bench_support.h"
#include "bench/matrix_product.h"
#include "distattn/step_attention.h"

namespace lombard::bench {
namespace {

constexpr int kBlock = 32, kKvHeads = 8, kHeadDim = 64;

struct Options {
  int rounds = 7, threads = 2, suffix = 64, group = 4, prompts = 0;
};

// `apart`: no shared span. The first batch / prompts sequences read the first prompt, and so on.
AttentionPlan MakePlan(int prefix, int suffix, int batch, bool apart, int prompts = 1) {
  AttentionPlan plan;
  std::vector<std::vector<BlockId>> shared(prompts);
  for (int p = 0; p < prompts; ++p) {
    for (int b = 0; b < prefix / kBlock; ++b) shared[p].push_back(BlockId(p * (prefix / kBlock) + b));
    if (apart) continue;
    plan.shared.emplace_back();
    plan.shared[p].span = {.blocks = shared[p], .first_position = 0, .token_count = prefix};
  }
  const int own_blocks = (suffix + kBlock - 1) / kBlock;
  for (int i = 0; i < batch; ++i) {
    const int prompt = i * prompts / batch;
    LocalSpan own;
    if (apart) own.blocks = shared[prompt];
    own.first_position = apart ? 0 : prefix;
    own.token_count = suffix + (apart ? prefix : 0);
    for (int b = 0; b < own_blocks; ++b)
      own.blocks.push_back(BlockId(prompts * (prefix / kBlock) + i * own_blocks + b));
    plan.new_kv.push_back({own.blocks.back(), (suffix - 1) % kBlock});
    SequenceRows rows{.first_row = i, .rows = 1, .first_position = prefix + suffix - 1};
    rows.spans.push_back(std::move(own));
    plan.sequences.push_back(std::move(rows));
    if (!apart) plan.shared[prompt].readers.push_back(i);
  }
  return plan;
}

// Storage of one layer with random values in all blocks.
std::unique_ptr<KvStorage> MakeStorage(int blocks) {
  auto storage = KvStorage::Create(
      {.dtype = DType::kBF16, .kv_heads = kKvHeads, .head_dim = kHeadDim, .block_tokens = kBlock}, 1, blocks);
  CHECK_OK(storage.status());
  std::minstd_rand random(1);
  for (int b = 0; b < blocks; ++b) {
    for (std::byte* bytes : {(*storage)->k(0, BlockId(b)), (*storage)->v(0, BlockId(b))}) {
      auto* values = reinterpret_cast<uint16_t*>(bytes);
      for (int64_t i = 0; i < (*storage)->layout().block_elements(); ++i)
        values[i] = BF16FromFloat(static_cast<float>(random() % 2001) / 1000.0f - 1);
    }
  }
  return *std::move(storage);
}

// Seconds of the plan's attention, apart and together, medians of turns.
std::pair<double, double> TimeBoth(const Options& options, const CpuContext& context, int prefix, int batch,
                                   int prompts) {
  const int heads = kKvHeads * options.group;
  const auto storage =
      MakeStorage(prompts * prefix / kBlock + batch * ((options.suffix + kBlock - 1) / kBlock));
  StepAttention attention({.q_heads = heads, .scale = 0.125f, .layer_windows = {0}}, context, storage.get(),
                          nullptr);
  std::vector<float> q(size_t(batch) * heads * kHeadDim, 0.1f), k(size_t(batch) * kKvHeads * kHeadDim, 0.1f),
      out(q.size());
  const AttentionPlan plans[] = {MakePlan(prefix, options.suffix, batch, true, prompts),
                                 MakePlan(prefix, options.suffix, batch, false, prompts)};
  std::vector<Case> cases;
  for (const AttentionPlan& plan : plans) {
    cases.push_back({"", 1, [&] {
                       attention.Begin(1, &plan);
                       CHECK_OK(attention.Attend(0, q.data(), k.data(), k.data(), out.data()));
                     }});
  }
  RunInterleaved(cases, options.rounds, Clock::kWall);
  return {1 / Median(cases[0].rates), 1 / Median(cases[1].rates)};
}

struct Rates {
  double bytes = 0, flops = 0;  // per second
};

// All threads read memory; and multiply.
Rates MeasureRates(const CpuContext& context, int rounds) {
  constexpr size_t kBytes = size_t{1} << 29;
  const char* memory = MapBytes(kBytes);
  std::memset(const_cast<char*>(memory), 1, kBytes);
  MatrixProduct product;
  std::vector<Case> cases;
  cases.push_back({"", kBytes, [&] { ReadAll<1>(*context.pool, memory, kBytes); }});
  cases.push_back({"", kBytes, [&] { ReadAll<4>(*context.pool, memory, kBytes); }});
  cases.push_back({"", product.operations(), [&] { product.Run(context); }});
  RunInterleaved(cases, rounds, Clock::kWall);
  return {std::max(Median(cases[0].rates), Median(cases[1].rates)),
          *std::max_element(cases[2].rates.begin(), cases[2].rates.end())};
}

void Run(const Options& options) {
  const std::unique_ptr<ThreadPool> pinned = MakePinnedPool(options.threads);
  ThreadPool& pool = *pinned;
  const CpuContext context{DetectIsa(), &pool};
  const int heads = kKvHeads * options.group;
  PrintMachine(pool);
  std::printf("# isa %s, %d query heads, suffix %d, %d rounds, medians\n",
              std::string(IsaName(context.isa)).c_str(), heads, options.suffix, options.rounds);
  if (options.prompts > 0) {
    constexpr int kPrefix = 2048, kBatch = 64;
    std::printf("# batch %d, each prompt of %d tokens read by its part\n", kBatch, kPrefix);
    std::printf(
        "| prompts | apart, ms | together, ms | speed-up | of one prompt's |\n|---|---|---|---|---|\n");
    double one = 0;
    for (const int prompts : {1, 2, 4, 8}) {
      const auto [apart, together] = TimeBoth(options, context, kPrefix, kBatch, prompts);
      if (prompts == 1) one = apart / together;
      std::printf("| %d | %.2f | %.2f | %.2f | %.2f |\n", prompts, 1e3 * apart, 1e3 * together,
                  apart / together, apart / together / one);
    }
    return;
  }
  const Rates rates = MeasureRates(context, options.rounds);
  std::printf("# measured here: %.1f GB/s, %.1f GFLOP/s of bf16 products\n", 1e-9 * rates.bytes,
              1e-9 * rates.flops);
  std::printf("| prefix | batch | apart, ms | together, ms | speed-up | keys | relay | roofline |\n");
  std::printf("|---|---|---|---|---|---|---|---|\n");
  for (const int prefix : {1024, 4096, 16384}) {
    for (const int batch : {16, 64, 256}) {
      const auto [apart, together] = TimeBoth(options, context, prefix, batch, 1);
      const double s = prefix, c = options.suffix, b = batch, g = options.group;
      const double kappa = 2.0 * kKvHeads * kHeadDim * 2 / rates.bytes;  // seconds to read a key
      const double pair = 4.0 * heads * kHeadDim / rates.flops;          // seconds of a row and a key
      const double own = b * c * std::max(kappa, pair);
      const double roofline = b * (s + c) * std::max(kappa, pair) / (std::max(s * kappa, b * s * pair) + own);
      std::printf("| %d | %d | %.2f | %.2f | %.2f | %.1f | %.1f | %.2f |\n", prefix, batch, 1e3 * apart,
                  1e3 * together, apart / together, b * (s + c) / (s + b * c),
                  (s + c + 2 * g) / (s / b + c + 7 * g), roofline);
    }
  }
}

}  // namespace
}  // namespace lombard::bench

int main(int argc, char** argv) {
  lombard::bench::Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    if (flag == "--rounds") options.rounds = std::max(1, std::atoi(argv[i + 1]));
    if (flag == "--threads") options.threads = std::max(1, std::atoi(argv[i + 1]));
    if (flag == "--suffix") options.suffix = std::max(1, std::atoi(argv[i + 1]));
    if (flag == "--prompts") options.prompts = std::atoi(argv[i + 1]);
    if (flag == "--group") options.group = std::max(1, std::atoi(argv[i + 1]));
  }
  lombard::bench::Run(options);
}
