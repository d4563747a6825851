// Speed of the CPU kernels against the machine's own ceilings, measured in turns: read bandwidth (weights and
// KV stream from memory) and fused multiply-adds. Weights cycle through a region far larger than the caches,
// as a model's layers do.
//
//   cpu_kernels_bench [--rounds 7] [--threads 2] [--isa avx2] [--only matmul|decode|prefill]
//   [--rows M (of products)] [--dtype bf16|f16|f32] [--clock wall|cpu]
#include <cstdlib>
#include <random>

#include "bench/bench_support.h"
#include "kernels/attention.h"
#include "kernels/elementwise.h"
#include "kernels/matmul.h"

namespace lombard::bench {
namespace {

constexpr size_t kRegionBytes = size_t{1} << 30;

struct Options {
  int rounds = 7, threads = 2, rows = 0;
  std::string isa, only, dtype = "bf16";
  Clock clock = Clock::kWall;
};

struct Shape {
  int64_t n, k;
};
constexpr Shape kShapes[] = {
    {2048, 2048}, {512, 2048}, {8192, 2048}, {2048, 8192}, {128256, 2048}};  // llama-3.2-1b

// Products with successive weights of the region until `bytes` of them are read.
Case MatmulCase(const CpuContext& context, const char* region, DType dtype, Shape shape, int64_t rows,
                size_t bytes) {
  const size_t size = shape.n * shape.k * DTypeBytes(dtype);
  const int count = static_cast<int>(std::max<size_t>(1, std::min(bytes, kRegionBytes) / size));
  std::vector<float> x(rows * shape.k, 0.5f), y(rows * shape.n);
  char name[96];
  std::snprintf(name, sizeof name, "matmul M=%-4ld N=%-6ld K=%ld", long{rows}, long{shape.n}, long{shape.k});
  return {name, double(size) * count, [=]() mutable {
            for (int i = 0; i < count; ++i) {
              MatmulArgs args;
              args.x = x.data(), args.x_stride = shape.k, args.w = region + i * size, args.w_dtype = dtype;
              args.y = y.data(), args.y_stride = shape.n, args.rows = rows, args.n = shape.n,
              args.k = shape.k;
              Matmul(context, args);
            }
          }};
}

// `rows` query rows of each of `layers` layers over `tokens` keys each, KV of llama-3.2-1b in blocks of 32, K
// and V of a layer in slabs. `scattered`: blocks in no order, as a pool that has run for a while gives them.
Case AttentionCase(const CpuContext& context, const char* region, int layers, int tokens, int rows,
                   bool scattered) {
  const KvLayout layout{DType::kBF16, 8, 64, 32};
  const int blocks = tokens / layout.block_tokens, heads = 32;
  CHECK_LE(size_t(2) * layers * blocks * layout.block_bytes(), kRegionBytes);
  std::vector<float> q(size_t(rows) * heads * 64, 0.1f), acc(q.size()), max(rows * heads), sum(rows * heads);
  std::vector<int32_t> positions(rows);
  for (int r = 0; r < rows; ++r) positions[r] = tokens - rows + r;
  char name[96];
  std::snprintf(name, sizeof name, "%s, %d layers, %d keys, %s", rows == 1 ? "decode" : "prefill", layers,
                tokens, scattered ? "scattered" : "in order");
  const double bytes = 2.0 * layers * blocks * layout.block_bytes();
  const double operations = 4.0 * layers * rows * heads * 64 * (tokens - (rows - 1) / 2.0);
  return {name, rows == 1 ? bytes : operations, [=]() mutable {
            std::vector<const void*> k(blocks), v(blocks);
            for (int layer = 0; layer < layers; ++layer) {
              for (int b = 0; b < blocks; ++b) {
                const size_t at = size_t(layer) * 2 * blocks + (scattered ? (size_t(b) * 769) % blocks : b);
                k[b] = region + at * layout.block_bytes();
                v[b] = region + (at + blocks) * layout.block_bytes();
              }
              AttentionArgs args;
              args.q = q.data(), args.q_positions = positions.data(), args.rows = rows, args.q_heads = heads,
              args.layout = layout;
              args.k_blocks = k.data(), args.v_blocks = v.data(), args.token_count = tokens,
              args.scale = 0.125f;
              args.acc = acc.data(), args.max = max.data(), args.sum = sum.data();
              PartialAttention(context, absl::MakeConstSpan(&args, 1));
            }
          }};
}

int Run(const Options& options) {
  const std::unique_ptr<ThreadPool> pinned = MakePinnedPool(options.threads);
  ThreadPool& pool = *pinned;
  CpuContext context{DetectIsa(), &pool};
  if (!options.isa.empty()) {
    const auto isa = ParseIsa(options.isa);
    if (!isa.ok()) {
      std::fprintf(stderr, "%s\n", std::string(isa.status().message()).c_str());
      return 2;
    }
    context.isa = *isa;
  }
  const DType dtype = options.dtype == "f32"   ? DType::kF32
                      : options.dtype == "f16" ? DType::kF16
                                               : DType::kBF16;
  const auto filled = [&](char* data) {
    pool.Run(1024, [&](int piece) {
      std::mt19937 random(piece);
      uint16_t* out = reinterpret_cast<uint16_t*>(data + (kRegionBytes / 1024) * piece);
      // Sign and mantissa at random, exponent near 1: valid in every type.
      for (size_t i = 0; i < kRegionBytes / 2048; ++i)
        out[i] = static_cast<uint16_t>((random() & 0x807f) | 0x3c00);
    });
    return data;
  };
  const auto wanted = [&](const char* what) { return options.only.empty() || options.only == what; };
  const char* region = filled(MapBytes(kRegionBytes));
  const char* kv = region;
  if (wanted("decode") || wanted("prefill")) {  // huge pages where there are some, as KvStorage asks for them
    char* memory = MapBytes(kRegionBytes + (2 << 20));
    memory += -reinterpret_cast<uintptr_t>(memory) % (2 << 20);
    madvise(memory, kRegionBytes, MADV_HUGEPAGE);
    kv = filled(memory);
  }

  PrintMachine(pool);
  std::printf("# isa %s, weights %s, %d rounds, medians\n", std::string(IsaName(context.isa)).c_str(),
              std::string(DTypeName(dtype)).c_str(), options.rounds);
  std::vector<Case> cases;
  cases.push_back({"read", double(kRegionBytes), [&] { ReadAll<1>(pool, region, kRegionBytes); }});
  cases.push_back({"read4", double(kRegionBytes), [&] { ReadAll<4>(pool, region, kRegionBytes); }});
  cases.push_back({"fma", RunOnAll(pool, FmaTask), [&] { RunOnAll(pool, FmaTask); }});
  cases.push_back({"pairs", RunOnAll(pool, PairsTask), [&] { RunOnAll(pool, PairsTask); }});
  std::vector<int64_t> rows_of = {0, 0, 0,
                                  0};  // 0: bytes against read; otherwise, rows per weight; -1: operations
  if (wanted("matmul")) {
    for (const int64_t rows : {1, 8, 64, 512}) {
      if (options.rows != 0 && rows != options.rows) continue;
      for (const Shape& shape : kShapes) {
        if (rows >= 64 && shape.n > 100000) continue;
        const size_t bytes = size_t{rows == 1 ? 512u : rows == 8 ? 256u : rows == 64 ? 64u : 16u} << 20;
        cases.push_back(MatmulCase(context, region, dtype, shape, rows, bytes));
        rows_of.push_back(rows);
      }
    }
  }
  for (const bool scattered : {false, true}) {
    if (wanted("decode"))
      cases.push_back(AttentionCase(context, kv, 16, 32768, 1, scattered)), rows_of.push_back(0);
  }
  if (wanted("prefill"))
    cases.push_back(AttentionCase(context, kv, 1, 8192, 512, true)), rows_of.push_back(-1);
  RunInterleaved(cases, options.rounds, options.clock);

  const double read = std::max(Median(cases[0].rates), Median(cases[1].rates)), fma = Median(cases[2].rates),
               pairs = Median(cases[3].rates);
  // What bf16 weights and KV are multiplied with.
  const bool of_pairs = context.isa >= Isa::kAvx512Bf16 && dtype == DType::kBF16;
  const double peak = of_pairs ? pairs : fma;
  const char* peak_name = of_pairs ? "bf16 pairs" : "fma";
  std::printf("%-44s %8.1f GB/s\n%-44s %8.1f GFLOP/s\n%-44s %8.1f GFLOP/s\n", "read ceiling", read / 1e9,
              "fma ceiling", fma / 1e9, "bf16 pairs ceiling", pairs / 1e9);
  for (size_t i = 4; i < cases.size(); ++i) {
    const double rate = Median(cases[i].rates);
    if (rows_of[i] == -1) {
      std::printf("%-44s %25.1f GFLOP/s %17.0f %% of %s\n", cases[i].name.c_str(), rate / 1e9,
                  100 * rate / peak, peak_name);
      continue;
    }
    const double operations = 2.0 * rows_of[i] * rate / static_cast<double>(DTypeBytes(dtype));
    std::printf("%-44s %8.1f GB/s %8.1f GFLOP/s   %4.0f %% of read %4.0f %% of %s\n", cases[i].name.c_str(),
                rate / 1e9, operations / 1e9, 100 * rate / read, 100 * operations / peak, peak_name);
  }
  return 0;
}

}  // namespace
}  // namespace lombard::bench

int main(int argc, char** argv) {
  lombard::bench::Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    if (flag == "--rounds") options.rounds = std::max(1, std::atoi(argv[i + 1]));
    if (flag == "--threads") options.threads = std::max(1, std::atoi(argv[i + 1]));
    if (flag == "--isa") options.isa = argv[i + 1];
    if (flag == "--only") options.only = argv[i + 1];
    if (flag == "--rows") options.rows = std::atoi(argv[i + 1]);
    if (flag == "--dtype") options.dtype = argv[i + 1];
    if (flag == "--clock" && std::string(argv[i + 1]) == "cpu") options.clock = lombard::bench::Clock::kCpu;
  }
  return lombard::bench::Run(options);
}
