// Attention kernels on a GPU against ceilings measured in the same run: decode of one layer over private
// contexts, and over a prefix that a batch shares.
//
//   gpu_attention_bench [--json FILE] [--rounds 20] [--smoke]
//
// Medians of device time between two events. Before each, 256 MiB are written, so that nothing measured lies
// in the second-level cache; the kernels are enqueued meanwhile, so launches cost nothing. K, V and queries
// are random. --smoke: tiny shapes, for the emulated device and for a first try; its figures mean nothing.
// Exits 77 where no GPU is.
#include <functional>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>

#include "absl/strings/str_cat.h"
#include "base/device/gpu_status.h"
#include "bench/gpu_bench_support.h"
#include "kernels/cuda/attention_schedule.h"
#include "kernels/cuda/merge_states.h"
#include "kernels/cuda/partial_attention.h"

namespace lombard::bench {
namespace {

constexpr int kBlock = 32;

struct Heads {
  int q = 0, kv = 0, dim = 128;
  int64_t key_bytes() const { return int64_t{4} * kv * dim; }  // K and V of one key, bf16
};

// One layer's attention, ready to run: schedule, tables and states on the device.
class Layer {
 public:
  // Blocks of the items: block_table; slabs hold them.
  Layer(Device& device, const Heads& heads, const std::vector<int32_t>& positions,
        const std::vector<AttentionItem>& items, const DeviceMemory& block_table, const DeviceMemory& k,
        const DeviceMemory& v)
      : device_(device) {
    const KvLayout layout{DType::kBF16, heads.kv, heads.dim, kBlock};
    const AttentionSchedule schedule = PlanAttention(layout, heads.q, positions, items);
    const uint64_t states = uint64_t(schedule.state_rows) * heads.q, rows = positions.size();
    const auto keep = [&](DeviceMemory memory) -> const DeviceMemory& {
      return memory_.emplace_back(std::move(memory));
    };
    memory_.reserve(10);
    args_.acc = keep(device.Allocate(states * heads.dim * 4)).data<float>();
    args_.max = keep(device.Allocate(states * 4)).data<float>();
    args_.sum = keep(device.Allocate(states * 4)).data<float>();
    args_.tables.SetWork(keep(device.Upload(schedule.work)).data<AttentionWork>(), schedule.work_count);
    args_.tables.rows = keep(device.Upload(schedule.rows)).data<int32_t>();
    args_.tables.positions = keep(device.Upload(positions)).data<int32_t>();
    args_.tables.block_table = block_table.data<int32_t>();
    args_.q = keep(device.Random(rows * heads.q * heads.dim * 2)).data();
    args_.q_stride = heads.q * heads.dim;
    args_.k = k.data(), args_.v = v.data();
    args_.layout = layout, args_.q_heads = heads.q;
    args_.scale = 1.0f / std::sqrt(static_cast<float>(heads.dim));
    merge_.acc = args_.acc, merge_.max = args_.max, merge_.sum = args_.sum;
    merge_.part_begin = keep(device.Upload(schedule.merge_begin)).data<int32_t>();
    merge_.part_ids = keep(device.Upload(schedule.merge_states)).data<int32_t>();
    merge_.rows = static_cast<int64_t>(rows), merge_.heads = heads.q, merge_.head_dim = heads.dim;
    out_bytes_ = rows * heads.q * heads.dim * 2;
    merge_.out = keep(device.Allocate(out_bytes_)).data(), merge_.out_dtype = DType::kBF16;
  }
  void Attend() { CHECK_OK(ToStatus(GpuPartialAttention(device_.stream().ref(), args_))); }
  void Run() {
    Attend();
    CHECK_OK(ToStatus(GpuMergeStates(device_.stream().ref(), merge_)));
  }
  // What came out is finite, and not nothing.
  void CheckResult() {
    const PinnedMemory pinned = Take(PinnedMemory::Create(device_.stream().device(), out_bytes_));
    CHECK_OK(device_.stream().Fill(merge_.out, 0xff, out_bytes_));
    Run();
    CHECK_OK(device_.stream().Copy(pinned.data(), merge_.out, out_bytes_));
    CHECK_OK(device_.stream().Synchronize());
    double sum = 0;
    for (uint64_t i = 0; i < out_bytes_ / 2; ++i) sum += std::abs(FloatFromBF16(pinned.data<uint16_t>()[i]));
    CHECK(std::isfinite(sum) && sum > 0) << sum;
  }

 private:
  Device& device_;
  std::vector<DeviceMemory> memory_;
  GpuAttentionArgs args_;
  GpuMergeStatesArgs merge_;
  uint64_t out_bytes_ = 0;
};

// Ids of `count` blocks, in no order.
std::vector<int32_t> Shuffled(int count) {
  std::vector<int32_t> ids(count);
  std::iota(ids.begin(), ids.end(), 0);
  std::shuffle(ids.begin(), ids.end(), std::minstd_rand(7));
  return ids;
}

int Blocks(int tokens) { return (tokens + kBlock - 1) / kBlock; }

void Decode(Device& device, const Options& options, double copy_rate, Rows& rows) {
  const Heads heads{32, 8};  // llama-3-8b
  struct Shape {
    int batch, context;
  };
  std::vector<Shape> shapes = {{32, 8192}, {8, 32768}, {1, 8192}, {1, 32768}, {1, 131072}, {1, 1 << 20}};
  if (options.smoke) shapes = {{2, 160}, {1, 40}};
  std::printf("\n## Decode attention, one layer of llama-3-8b (32 query heads, 8 KV heads of 128), bf16\n\n");
  std::printf(
      "| batch x context | attention + merge, us | attention alone, us | GB/s of K and V | of copy |\n");
  std::printf("|---|---|---|---|---|\n");
  for (const Shape& shape : shapes) {
    const int blocks = shape.batch * Blocks(shape.context);
    const uint64_t slab = uint64_t(blocks) * kBlock * heads.key_bytes() / 2;
    if (!device.Fits(2 * slab)) {
      std::printf("| %d x %d | skipped: needs %.1f GB | | | |\n", shape.batch, shape.context, 2e-9 * slab);
      continue;
    }
    const DeviceMemory k = device.Random(slab), v = device.Random(slab),
                       table = device.Upload(Shuffled(blocks));
    std::vector<AttentionItem> items;
    for (int i = 0; i < shape.batch; ++i)
      items.push_back({.first_block = i * Blocks(shape.context),
                       .token_count = shape.context,
                       .first_position = 0,
                       .rows = {i}});
    Layer layer(device, heads, std::vector<int32_t>(shape.batch, shape.context - 1), items, table, k, v);
    layer.CheckResult();
    const std::vector<double> seconds = device.Time({[&] { layer.Run(); }, [&] { layer.Attend(); }});
    const double rate = double(shape.batch) * shape.context * heads.key_bytes() / seconds[0];
    std::printf("| %d x %d | %.1f | %.1f | %.0f | %.1f %% |\n", shape.batch, shape.context, 1e6 * seconds[0],
                1e6 * seconds[1], 1e-9 * rate, 100 * rate / copy_rate);
    const std::string name = absl::StrCat(shape.batch, "x", shape.context);
    rows.Add({{"name", absl::StrCat("decode/", name)},
              {"median_us", 1e6 * seconds[0]},
              {"gb_per_s", 1e-9 * rate},
              {"of_copy", rate / copy_rate}});
    rows.Add({{"name", absl::StrCat("decode_without_merge/", name)}, {"median_us", 1e6 * seconds[1]}});
  }
}

void SharedPrefix(Device& device, const Options& options, double matrix_rate, Rows& rows) {
  const Heads heads{8, 1};  // a GPU's slice of an 8-way model, as in Hydragen's microbenchmark
  struct Shape {
    int batch, prefix;
  };
  std::vector<Shape> shapes = {{512, 1024}, {1024, 2048}, {2048, 4096}, {4096, 8192}};
  std::vector<int> suffixes = {16, 128, 512};
  if (options.smoke) shapes = {{3, 96}}, suffixes = {16};
  std::printf("\n## A prefix that the batch shares, one layer of 8 query heads, 1 KV head of 128, bf16\n\n");
  std::printf(
      "Apart: every sequence reads a copy of its own by the decode kernel. Forecast: 4.2 TB/s, 550 TFLOP/s, "
      "8 us.\n\n");
  std::printf(
      "| batch, prefix | suffix | apart, us | together, us | ratio | forecast | ratio / forecast | "
      "prefix alone, us | TFLOP/s | of matrix rate |\n");
  std::printf("|---|---|---|---|---|---|---|---|---|---|\n");
  for (const Shape& shape : shapes) {
    const int longest = Blocks(shape.prefix + suffixes.back()), blocks = shape.batch * longest;
    const uint64_t slab = uint64_t(blocks) * kBlock * heads.key_bytes() / 2;
    if (!device.Fits(2 * slab + (uint64_t{4} << 30))) {
      std::printf("| %d, %d | skipped: needs %.1f GB | | | | | | | | |\n", shape.batch, shape.prefix,
                  2e-9 * slab);
      continue;
    }
    const DeviceMemory k = device.Random(slab), v = device.Random(slab),
                       table = device.Upload(Shuffled(blocks));
    for (const int suffix : suffixes) {
      const int context = shape.prefix + suffix;
      std::vector<AttentionItem> apart, together(1);
      together[0] = {
          .first_block = 0, .token_count = shape.prefix, .first_position = 0, .rows = {}, .shared = true};
      for (int i = 0; i < shape.batch; ++i) {
        apart.push_back(
            {.first_block = i * longest, .token_count = context, .first_position = 0, .rows = {i}});
        together[0].rows.push_back(i);
        together.push_back({.first_block = i * longest + Blocks(shape.prefix),
                            .token_count = suffix,
                            .first_position = shape.prefix,
                            .rows = {i}});
      }
      const std::vector<int32_t> positions(shape.batch, context - 1);
      Layer one(device, heads, positions, apart, table, k, v),
          all(device, heads, positions, together, table, k, v),
          prefix(device, heads, positions, {together[0]}, table, k, v);
      one.CheckResult(), all.CheckResult();
      const std::vector<double> seconds =
          device.Time({[&] { one.Run(); }, [&] { all.Run(); }, [&] { prefix.Attend(); }});
      const double operations = 4.0 * shape.batch * heads.q * heads.dim * shape.prefix;
      const double rate = operations / seconds[2];
      const double own_bytes = double(shape.batch) * suffix * heads.key_bytes();
      const double forecast_apart = double(shape.batch) * context * heads.key_bytes() / 4.2e12;
      const double forecast_together =
          operations / 550e12 + (own_bytes + shape.batch * heads.q * (6.0 * heads.dim + 8)) / 4.2e12 + 8e-6;
      const double ratio = seconds[0] / seconds[1], forecast = forecast_apart / forecast_together;
      std::printf("| %d, %d | %d | %.1f | %.1f | %.2f | %.2f | %.2f | %.1f | %.0f | %.1f %% |\n", shape.batch,
                  shape.prefix, suffix, 1e6 * seconds[0], 1e6 * seconds[1], ratio, forecast, ratio / forecast,
                  1e6 * seconds[2], 1e-12 * rate, Percent(rate, matrix_rate));
      const std::string name = absl::StrCat("/", shape.batch, "x", shape.prefix, "+", suffix);
      rows.Add({{"name", "prefix_apart" + name}, {"median_us", 1e6 * seconds[0]}});
      rows.Add({{"name", "prefix_together" + name},
                {"median_us", 1e6 * seconds[1]},
                {"ratio", ratio},
                {"forecast_ratio", forecast},
                {"of_forecast", ratio / forecast}});
      rows.Add({{"name", "prefix_without_merge" + name},
                {"median_us", 1e6 * seconds[2]},
                {"tflop_per_s", 1e-12 * rate},
                {"of_matrix", Share(rate, matrix_rate)}});
    }
  }
}

void Prefill(Device& device, const Options& options, double matrix_rate, Rows& rows) {
  const Heads heads{32, 8};
  std::printf("\n## Prefill attention, one layer of llama-3-8b, bf16: the last rows of a context\n\n");
  std::printf("| rows, context | us | TFLOP/s | of matrix rate |\n|---|---|---|---|\n");
  std::vector<std::pair<int, int>> shapes = {{512, 8192}, {2048, 8192}, {8192, 8192}, {2048, 131072}};
  if (options.smoke) shapes = {{9, 70}};
  for (const auto& [count, context] : shapes) {
    const uint64_t slab = uint64_t(Blocks(context)) * kBlock * heads.key_bytes() / 2;
    const DeviceMemory k = device.Random(slab), v = device.Random(slab),
                       table = device.Upload(Shuffled(Blocks(context)));
    std::vector<int32_t> positions(count), all(count);
    std::iota(positions.begin(), positions.end(), context - count);
    std::iota(all.begin(), all.end(), 0);
    Layer layer(device, heads, positions,
                {{.first_block = 0, .token_count = context, .first_position = 0, .rows = all}}, table, k, v);
    layer.CheckResult();
    const double seconds = device.Time([&] { layer.Run(); });
    const double keys = count * (context - (count - 1) / 2.0);  // that rows see, together
    const double rate = 4.0 * heads.q * heads.dim * keys / seconds;
    std::printf("| %d, %d | %.1f | %.0f | %.1f %% |\n", count, context, 1e6 * seconds, 1e-12 * rate,
                Percent(rate, matrix_rate));
    rows.Add({{"name", absl::StrCat("prefill_attention/", count, "x", context)},
              {"median_us", 1e6 * seconds},
              {"tflop_per_s", 1e-12 * rate},
              {"of_matrix", Share(rate, matrix_rate)}});
  }
}

}  // namespace
}  // namespace lombard::bench

int main(int argc, char** argv) {
  using namespace lombard::bench;  // NOLINT: this is the benchmark
  return GpuBenchMain(argc, argv, "gpu_attention_bench", 20,
                      [](Device& device, const Options& options, const Ceilings& ceilings, Rows& rows) {
                        Decode(device, options, ceilings.copy_rate, rows);
                        SharedPrefix(device, options, ceilings.matrix_rate, rows);
                        Prefill(device, options, ceilings.matrix_rate, rows);
                      });
}
