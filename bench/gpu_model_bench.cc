// Whole steps of a model on a GPU, host's share included, with weights that are made up: decode, prefill, and
// decode of a batch that shares a prefix, each against what its parts would take at ceilings measured in the
// same run.
//
//   gpu_model_bench [--json FILE] [--rounds 10] [--smoke]
//
// Weights are read once a step, and are far larger than the second-level cache. KV is noise: attention takes
// as long whatever is attended to.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "bench/dummy_shape.h"
#include "bench/gpu_bench_support.h"
#include "runtime/engine/gpu/gpu_machine.h"

namespace lombard::bench {
namespace {

constexpr int kBlock = 32;
int Blocks(int tokens) { return (tokens + kBlock - 1) / kBlock; }

// A model of a public shape on the device.
class DummyOnGpu {
 public:
  DummyOnGpu(Device& device, const std::string& preset)
      : device_(device),
        model_(DummyModelOf(preset)),
        on_gpu_(Take(GpuModel::Load(*model_, device.index()))) {
    Make(1, 1, 1);
    std::printf("\n# %s, %s\n", preset.c_str(),
                machine_->remark().empty() ? "products by cuBLASLt" : machine_->remark().c_str());
  }
  const ModelConfig& config() const { return model_->config(); }
  double kv_bytes(double tokens) const { return tokens * double(config().KvBytesPerToken(config().dtype)); }
  // Of the layers alone: what every row goes through. lm_head is read by rows that give logits.
  double layer_bytes() const { return double(model_->weight_bytes() - embedding_bytes() - head_bytes()); }
  double head_bytes() const { return config().tied_embeddings ? 0 : double(model_->lm_head().bytes()); }
  double layer_operations() const { return 2 * layer_bytes() / double(DTypeBytes(config().dtype)); }  // a row

  // KV for `blocks`, filled with noise, and a machine above it.
  void Make(int blocks, int rows, int wanted, size_t graphs_max = kGpuGraphsMax) {
    machine_.reset(), storage_.reset();
    storage_ = Take(GpuKvStorage::Create(device_.index(),
                                         {config().dtype, config().kv_heads, config().head_dim, kBlock},
                                         config().layers, blocks));
    device_.FillRandom(storage_->k_slab(0), static_cast<uint64_t>(blocks) *
                                                KvBytes::BlockBytes(storage_->layout(), config().layers));
    machine_ = Take(GpuMachine::Create(on_gpu_, storage_.get(), nullptr, graphs_max));
    CHECK_OK(machine_->Reserve(rows, wanted));
  }
  double Seconds(const StepWork& work) { return Take(machine_->Run(work)).seconds; }
  double MedianSeconds(const StepWork& work, int rounds) {
    std::vector<double> seconds;
    for (int round = -3; round < rounds; ++round) {
      const double one = Seconds(work);
      if (round >= 0) seconds.push_back(one);
    }
    return Median(seconds);
  }

 private:
  double embedding_bytes() const { return double(model_->embedding().bytes()); }

  Device& device_;
  const std::unique_ptr<Model> model_;
  const std::shared_ptr<const GpuModel> on_gpu_;
  std::unique_ptr<GpuKvStorage> storage_;
  std::unique_ptr<GpuMachine> machine_;
};

SamplingParams Greedy() {
  SamplingParams params;
  params.temperature = 0;
  return params;
}
const SamplingParams kGreedy = Greedy();

void AddRow(StepWork& work, int position, BlockId block, bool sampled) {
  const int row = static_cast<int>(work.input.tokens.size());
  work.input.tokens.push_back(row % 100);
  work.input.positions.push_back(position);
  work.plan.new_kv.push_back({block, position % kBlock});
  if (!sampled) return;
  work.input.logit_rows.push_back(row);
  work.input.sampling.push_back({.params = &kGreedy});
}

// Each of `batch` sequences has blocks of its own for `own` tokens, behind `prefix` ones that all share.
StepWork DecodeStep(int batch, int prefix, int own) {
  StepWork work{.step = 1};
  const int shared = prefix / kBlock;
  SharedSpan span{.span = {.token_count = prefix}};
  for (int b = 0; b < shared; ++b) span.span.blocks.push_back(BlockId(b));
  for (int i = 0; i < batch; ++i) {
    LocalSpan tail{.first_position = prefix, .token_count = own};
    for (int b = 0; b < Blocks(own); ++b) tail.blocks.push_back(BlockId(shared + i * Blocks(own) + b));
    AddRow(work, prefix + own - 1, tail.blocks.back(), true);
    work.plan.sequences.push_back(
        {.first_row = i, .rows = 1, .first_position = prefix + own - 1, .spans = {tail}});
    span.readers.push_back(i);
  }
  if (prefix > 0) work.plan.shared.push_back(std::move(span));
  return work;
}

StepWork PrefillStep(int first, int count, bool last) {
  StepWork work{.step = 1};
  LocalSpan span{.token_count = first + count};
  for (int b = 0; b < Blocks(first + count); ++b) span.blocks.push_back(BlockId(b));
  for (int i = 0; i < count; ++i)
    AddRow(work, first + i, BlockId((first + i) / kBlock), last && i == count - 1);
  work.plan.sequences.push_back({.rows = count, .first_position = first, .spans = {std::move(span)}});
  return work;
}

void Decode(DummyOnGpu& model, const Options& options, const Ceilings& ceilings, Rows& rows) {
  const int context = options.smoke ? 40 : 1024;
  std::printf("\n## Decode at %d tokens of context\n\n", context);
  std::printf(
      "Parts: the larger of weights / copy rate and operations / matrix rate, and KV / copy rate.\n\n");
  std::printf(
      "| batch | step, us | without graphs, us | tokens/s | reading the weights, us | of weights | parts, us "
      "| of parts |\n");
  std::printf("|---|---|---|---|---|---|---|---|\n");
  for (const int batch : options.smoke ? std::vector{1, 3} : std::vector{1, 8, 64, 256}) {
    double each[2];
    for (const bool graphs : {false, true}) {
      model.Make(batch * Blocks(context), batch, batch, graphs ? kGpuGraphsMax : 0);
      each[graphs] = model.MedianSeconds(DecodeStep(batch, 0, context), options.rounds);
    }
    const double seconds = each[true];
    const double bytes = model.layer_bytes() + model.head_bytes();
    const double weights = bytes / ceilings.copy_rate;
    const double operations = bytes / double(DTypeBytes(model.config().dtype)) * 2 * batch;
    const double products = ceilings.matrix_rate == 0 ? 0 : operations / ceilings.matrix_rate;
    const double parts =
        std::max(weights, products) + model.kv_bytes(double(batch) * context) / ceilings.copy_rate;
    std::printf("| %d | %.0f | %.0f | %.0f | %.0f | %.1f %% | %.0f | %.1f %% |\n", batch, 1e6 * seconds,
                1e6 * each[false], batch / seconds, 1e6 * weights, Percent(weights, seconds), 1e6 * parts,
                Percent(parts, seconds));
    rows.Add({{"name", absl::StrCat("model_decode/", batch)},
              {"median_us", 1e6 * seconds},
              {"weights_us", 1e6 * weights},
              {"of_weights", weights / seconds},
              {"parts_us", 1e6 * parts},
              {"of_parts", parts / seconds}});
    rows.Add({{"name", absl::StrCat("model_decode_plain/", batch)}, {"median_us", 1e6 * each[false]}});
  }
}

void Prefill(DummyOnGpu& model, const Options& options, const Ceilings& ceilings, Rows& rows) {
  const int chunk = options.smoke ? 16 : 2048;
  std::printf("\n## Prefill in chunks of %d tokens\n\n", chunk);
  std::printf("| tokens | ms | tokens/s | TFLOP/s | of matrix rate |\n|---|---|---|---|---|\n");
  for (const int tokens : options.smoke ? std::vector{40} : std::vector{8192, 131072}) {
    model.Make(Blocks(tokens), chunk, 1);
    std::vector<double> seconds;
    for (int round = -1; round < (tokens > 65536 ? 1 : options.rounds); ++round) {
      if (round < 0 && tokens > 65536)
        continue;  // seconds long: what the first steps cost more does not show
      double sum = 0;
      for (int first = 0; first < tokens; first += chunk) {
        const int count = std::min(chunk, tokens - first);
        sum += model.Seconds(PrefillStep(first, count, first + count == tokens));
      }
      if (round >= 0) seconds.push_back(sum);
    }
    const ModelConfig& c = model.config();
    const double pairs = 0.5 * tokens * (tokens + 1.0) * c.q_heads * c.head_dim * c.layers;
    const double rate = (model.layer_operations() * tokens + 4 * pairs) / Median(seconds);
    std::printf("| %d | %.1f | %.0f | %.0f | %.1f %% |\n", tokens, 1e3 * Median(seconds),
                tokens / Median(seconds), 1e-12 * rate, Percent(rate, ceilings.matrix_rate));
    rows.Add({{"name", absl::StrCat("prefill/", tokens)},
              {"median_us", 1e6 * Median(seconds)},
              {"tflop_per_s", 1e-12 * rate},
              {"of_matrix", Share(rate, ceilings.matrix_rate)}});
  }
}

void SharedPrefix(DummyOnGpu& model, const Options& options, const Ceilings& ceilings, Rows& rows) {
  const int batch = options.smoke ? 3 : 512, suffix = options.smoke ? 20 : 64;
  std::printf("\n## Decode of %d sequences that share a prefix, %d tokens of their own\n\n", batch, suffix);
  std::printf("Bound: operations of weights and prefix / matrix rate, and private KV / copy rate.\n\n");
  std::printf("| prefix | step, us | tokens/s | bound, us | step / bound |\n|---|---|---|---|---|\n");
  std::vector<double> times;
  for (const int prefix : options.smoke ? std::vector{32, 64} : std::vector{1024, 16384}) {
    model.Make(prefix / kBlock + batch * Blocks(suffix), batch, batch);
    const double seconds = model.MedianSeconds(DecodeStep(batch, prefix, suffix), options.rounds);
    times.push_back(seconds);
    const ModelConfig& c = model.config();
    const double dense =
        (model.layer_operations() + 2 * model.head_bytes() / double(DTypeBytes(c.dtype))) * batch;
    const double shared = 4.0 * batch * prefix * c.q_heads * c.head_dim * c.layers;
    const double bound = ceilings.matrix_rate == 0
                             ? 0
                             : (dense + shared) / ceilings.matrix_rate +
                                   model.kv_bytes(double(batch) * suffix) / ceilings.copy_rate;
    std::printf("| %d | %.0f | %.0f | %.0f | %.2f |\n", prefix, 1e6 * seconds, batch / seconds, 1e6 * bound,
                bound == 0 ? 0 : seconds / bound);
    nlohmann::json row = {{"name", absl::StrCat("prefix_step/", batch, "x", prefix, "+", suffix)},
                          {"median_us", 1e6 * seconds},
                          {"bound_us", 1e6 * bound},
                          {"of_bound", bound / seconds}};
    if (times.size() > 1) {
      row["throughput_lost"] = 1 - times[0] / seconds;
      row["published_throughput_lost"] = 0.18;
    }
    rows.Add(std::move(row));
  }
  std::printf("\nThroughput falls by %.1f %% from the short prefix to the long one (Hydragen's 7B: 18 %%).\n",
              100 * (1 - times[0] / times[1]));
}

}  // namespace
}  // namespace lombard::bench

int main(int argc, char** argv) {
  using namespace lombard::bench;  // NOLINT: this is the benchmark
  return GpuBenchMain(argc, argv, "gpu_model_bench", 10,
                      [](Device& device, const Options& options, const Ceilings& ceilings, Rows& rows) {
                        {
                          DummyOnGpu model(device, options.smoke ? "tiny" : "llama-3-8b");
                          Decode(model, options, ceilings, rows);
                          Prefill(model, options, ceilings, rows);
                        }
                        DummyOnGpu model(device, options.smoke ? "tiny" : "llama-2-7b");
                        SharedPrefix(model, options, ceilings, rows);
                      });
}
