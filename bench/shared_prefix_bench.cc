// Decode attention of one layer over a prefix that a whole batch shares: every sequence by itself against one
// product for all of them, in turns. Heads of llama-3.2-1b (32 query heads, 8 KV heads of 64), bf16.
//
//   shared_prefix_bench [--rounds 7] [--threads 2] [--suffix 64] [--group 4]
//
// "keys" is the ratio of the keys read: what the speed-up would be were reading all there is.
#include <cstdlib>
#include <memory>
#include <random>

#include "bench/bench_support.h"
#include "distattn/step_attention.h"

namespace lombard::bench {
namespace {

constexpr int kBlock = 32, kKvHeads = 8, kHeadDim = 64;

struct Options {
  int rounds = 7, threads = 2, suffix = 64, group = 4;
};

// `apart`: no shared span.
AttentionPlan MakePlan(int prefix, int suffix, int batch, bool apart) {
  AttentionPlan plan;
  std::vector<BlockId> shared;
  for (int b = 0; b < prefix / kBlock; ++b) shared.push_back(BlockId(b));
  if (!apart) {
    plan.shared.emplace_back();
    plan.shared[0].span = {.blocks = shared, .first_position = 0, .token_count = prefix};
  }
  const int own_blocks = (suffix + kBlock - 1) / kBlock;
  for (int i = 0; i < batch; ++i) {
    LocalSpan own;
    if (apart) own.blocks = shared;
    own.first_position = apart ? 0 : prefix;
    own.token_count = suffix + (apart ? prefix : 0);
    for (int b = 0; b < own_blocks; ++b)
      own.blocks.push_back(BlockId(static_cast<int>(shared.size()) + i * own_blocks + b));
    plan.new_kv.push_back({own.blocks.back(), (suffix - 1) % kBlock});
    SequenceRows rows{.first_row = i, .rows = 1, .first_position = prefix + suffix - 1};
    rows.spans.push_back(std::move(own));
    plan.sequences.push_back(std::move(rows));
    if (!apart) plan.shared[0].readers.push_back(i);
  }
  return plan;
}

void Run(const Options& options) {
  ThreadPool pool(options.threads);
  const CpuContext context{DetectIsa(), &pool};
  const int heads = kKvHeads * options.group;
  PrintMachine(pool);
  std::printf("# isa %s, %d query heads, suffix %d, %d rounds, medians\n",
              std::string(IsaName(context.isa)).c_str(), heads, options.suffix, options.rounds);
  std::printf("| prefix | batch | apart, ms | together, ms | speed-up | keys |\n|---|---|---|---|---|---|\n");
  for (const int prefix : {1024, 4096, 16384}) {
    for (const int batch : {16, 64, 256}) {
      const int blocks = prefix / kBlock + batch * ((options.suffix + kBlock - 1) / kBlock);
      auto storage = KvStorage::Create(
          {.dtype = DType::kBF16, .kv_heads = kKvHeads, .head_dim = kHeadDim, .block_tokens = kBlock}, 1,
          blocks);
      CHECK_OK(storage.status());
      std::minstd_rand random(1);
      for (int b = 0; b < blocks; ++b) {
        for (std::byte* bytes : {(*storage)->k(0, BlockId(b)), (*storage)->v(0, BlockId(b))}) {
          auto* values = reinterpret_cast<uint16_t*>(bytes);
          for (int64_t i = 0; i < (*storage)->layout().block_elements(); ++i)
            values[i] = BF16FromFloat(static_cast<float>(random() % 2001) / 1000.0f - 1);
        }
      }
      StepAttention attention({.q_heads = heads, .scale = 0.125f, .layer_windows = {0}}, context,
                              storage->get(), nullptr);
      std::vector<float> q(size_t(batch) * heads * kHeadDim, 0.1f),
          k(size_t(batch) * kKvHeads * kHeadDim, 0.1f), out(q.size());
      const AttentionPlan plans[] = {MakePlan(prefix, options.suffix, batch, true),
                                     MakePlan(prefix, options.suffix, batch, false)};
      std::vector<Case> cases;
      for (const AttentionPlan& plan : plans) {
        cases.push_back({"", 1, [&] {
                           attention.Begin(1, &plan);
                           CHECK_OK(attention.Attend(0, q.data(), k.data(), k.data(), out.data()));
                         }});
      }
      RunInterleaved(cases, options.rounds, Clock::kWall);
      const double apart = 1 / Median(cases[0].rates), together = 1 / Median(cases[1].rates);
      std::printf("| %d | %d | %.2f | %.2f | %.2f | %.1f |\n", prefix, batch, 1e3 * apart, 1e3 * together,
                  apart / together,
                  double(batch) * (prefix + options.suffix) / (prefix + double(batch) * options.suffix));
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
    if (flag == "--group") options.group = std::max(1, std::atoi(argv[i + 1]));
  }
  lombard::bench::Run(options);
}
