// Two workers of one process on one GPU, each with memory and streams of its own, the real message path
// between them (the loopback transport, through host memory): queries that travel against KV that is fetched,
// and what sending KV away beside decoding costs.
//
//   gpu_lending_bench [--json FILE] [--rounds 10] [--smoke]
//
// The shape is that of Llama 2 13B, for which Infinite-LLM (arXiv 2401.02669) published the same, measured on
// A100s with NVLink between them; its figures are printed beside ours.
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/dummy_shape.h"
#include "bench/gpu_bench_support.h"
#include "distattn/gpu_span_attention.h"
#include "distattn/remote_service.h"
#include "fabric/loopback_transport.h"
#include "runtime/engine/cpu_machine.h"
#include "runtime/engine/gpu/gpu_machine.h"

namespace lombard::bench {
namespace {

constexpr int kBlock = 16;
constexpr int kFetchBlocks = 128;  // of one message
constexpr LoanId kLoan{1};
int Blocks(int tokens) { return (tokens + kBlock - 1) / kBlock; }

// Rank 0 borrows, rank 1 lends all of its blocks as one loan.
class Pair {
 public:
  Pair(Device& device, const AttentionShape& shape, const KvLayout& layout, int layers, int own, int lent)
      : transports_(MakeLoopbackTransports(2)) {
    const int counts[2] = {own, lent};
    for (int rank = 0; rank < 2; ++rank) {
      storage_[rank] = Take(GpuKvStorage::Create(device.index(), layout, layers, counts[rank]));
      device.FillRandom(storage_[rank]->k_slab(0),
                        static_cast<uint64_t>(counts[rank]) * KvBytes::BlockBytes(layout, layers));
    }
    client_ = std::make_unique<RemoteClient>(RemoteClient::Options{.on_wait = {}, .on_transfer = {}},
                                             shape.q_heads, transports_[0].get(), storage_[0].get());
    attention_ = Take(GpuSpanAttention::Create(device.index(), shape, storage_[1].get()));
    std::vector<BlockId> blocks;
    for (int b = 0; b < lent; ++b) blocks.push_back(BlockId(b));
    auto slots = std::make_shared<const std::vector<BlockId>>(std::move(blocks));
    service_ = std::make_unique<RemoteService>(RemoteService::Options{.q_heads = shape.q_heads},
                                               storage_[1].get(), attention_.get(), transports_[1].get(),
                                               [slots](int, LoanId, uint64_t, bool) { return slots; });
    threads_.emplace_back([this] { service_->Serve(); });
    for (int rank = 0; rank < 2; ++rank) {
      threads_.emplace_back([this, rank] {
        Handler handler(this, rank);
        while (!stop_) transports_[rank]->Poll(handler, absl::Milliseconds(5));
      });
    }
  }
  ~Pair() {
    stop_ = true;
    for (auto& transport : transports_) transport->Wake();
    service_->Stop();
    for (std::thread& thread : threads_) thread.join();
  }

  RemoteClient* client() { return client_.get(); }
  const GpuKvStorage* storage() const { return storage_[0].get(); }
  void WaitFor(uint64_t transfer) {
    while (!client_->transfer(transfer).done()) usleep(20);
    CHECK_OK(client_->transfer(transfer).status);
    client_->ForgetTransfer(transfer);
  }

 private:
  struct Handler : TransportHandler {
    Pair* pair;
    int rank;
    Handler(Pair* pair, int rank) : pair(pair), rank(rank) {}
    void OnMessage(int from, Message message) override {
      rank == 0 ? pair->client_->OnMessage(from, std::move(message))
                : pair->service_->Enqueue(from, std::move(message));
    }
    void OnPeerDown(int, const absl::Status&) override {}
  };

  std::vector<std::unique_ptr<Transport>> transports_;
  std::unique_ptr<GpuKvStorage> storage_[2];
  std::unique_ptr<RemoteClient> client_;
  std::unique_ptr<GpuSpanAttention> attention_;
  std::unique_ptr<RemoteService> service_;
  std::atomic<bool> stop_ = false;
  std::vector<std::thread> threads_;
};

KvLayout LayoutOf(const ModelConfig& config) {
  return {config.dtype, config.kv_heads, config.head_dim, kBlock};
}

// What Infinite-LLM published: milliseconds of a query that is shipped and of KV that is fetched, by tokens.
struct Published {
  double shipped_ms = 0, fetched_ms = 0;
  double ratio() const { return fetched_ms / shipped_ms; }
};
const std::map<int, Published> kPublished = {
    {8192, {0.075, 0.581}}, {32768, {0.12, 1.98}}, {131072, {0.36, 7.48}}};
// And the throughput that was lost, by tokens moved a step; "no visible loss" for the first.
const std::map<int, double> kPublishedLoss = {{16, 0}, {32, 0.086}};

// One layer's attention of one row over keys that another worker holds.
void ShipOrFetch(Device& device, const Options& options, const ModelConfig& config, Rows& rows) {
  std::printf("\n## One layer, one row over keys of another worker\n\n");
  std::printf(
      "| tokens | query shipped, us | KV fetched, us | ratio | Infinite-LLM's: us, us, ratio |\n"
      "|---|---|---|---|---|\n");
  AttentionShape shape = ShapeOf(config);
  shape.layer_windows = {0};
  const uint64_t q_bytes = uint64_t(config.q_heads) * config.head_dim * DTypeBytes(config.dtype);
  const DeviceMemory q = device.Random(q_bytes), out = device.Allocate(q_bytes);
  for (const int tokens : options.smoke ? std::vector{48, 8192} : std::vector{8192, 32768, 131072}) {
    Pair pair(device, shape, LayoutOf(config), 1, Blocks(tokens) + 1, Blocks(tokens));
    GpuStream stream = Take(GpuStream::Create(device.index()));
    const auto attention = Take(GpuStepAttention::Create(shape, pair.storage(), pair.client(), &stream));
    GpuTables tables;
    AttentionPlan lent, local;
    LocalSpan fetched{.token_count = tokens};
    for (int b = 0; b < Blocks(tokens); ++b) fetched.blocks.push_back(BlockId(b));
    const LocalSpan own{.blocks = {BlockId(Blocks(tokens))}, .first_position = tokens, .token_count = 1};
    const LentSpan away{.loan = kLoan, .creditor = 1, .token_count = tokens};
    lent.sequences.push_back({.rows = 1, .first_position = tokens, .spans = {away, own}});
    local.sequences.push_back({.rows = 1, .first_position = tokens, .spans = {fetched, own}});
    lent.new_kv = local.new_kv = {{own.blocks[0], 0}};
    uint64_t step = 0;
    const auto attend = [&](const AttentionPlan& plan) {
      tables.Clear();
      CHECK_OK(attention->Begin(++step, &plan));
      attention->AddTables(&tables);
      CHECK_OK(tables.Send(stream));
      CHECK_OK(attention->Attend(0, q.data(), out.data(), config.dtype));
      CHECK_OK(stream.Synchronize());
    };
    std::vector<double> shipped, fetches;
    for (int round = -2; round < options.rounds; ++round) {
      double start = Seconds(Clock::kWall);
      attend(lent);
      if (round >= 0) shipped.push_back(Seconds(Clock::kWall) - start);
      start = Seconds(Clock::kWall);
      const uint64_t transfer = ++step;
      for (int b = 0; b < Blocks(tokens); b += kFetchBlocks) {
        KvFetch some{.transfer = transfer, .creditor = 1, .loan = kLoan, .blocks = {}};
        some.first_slot = static_cast<uint32_t>(b);
        const int end = std::min(b + kFetchBlocks, Blocks(tokens));
        some.blocks.assign(fetched.blocks.begin() + b, fetched.blocks.begin() + end);
        pair.client()->FetchKv(some, 0);
      }
      pair.WaitFor(transfer);
      attend(local);
      if (round >= 0) fetches.push_back(Seconds(Clock::kWall) - start);
    }
    const double ratio = Median(fetches) / Median(shipped);
    nlohmann::json fetched_row = {{"name", absl::StrCat("kv_fetched/", tokens)},
                                  {"median_us", 1e6 * Median(fetches)},
                                  {"ratio", ratio}};
    std::string beside;
    if (const auto it = kPublished.find(tokens); it != kPublished.end()) {
      beside = absl::StrFormat("%.0f, %.0f, %.1f", 1e3 * it->second.shipped_ms, 1e3 * it->second.fetched_ms,
                               it->second.ratio());
      fetched_row["published_ratio"] = it->second.ratio();
    }
    std::printf("| %d | %.0f | %.0f | %.1f | %s |\n", tokens, 1e6 * Median(shipped), 1e6 * Median(fetches),
                ratio, beside.c_str());
    rows.Add({{"name", absl::StrCat("query_shipped/", tokens)}, {"median_us", 1e6 * Median(shipped)}});
    rows.Add(std::move(fetched_row));
  }
}

void Migrate(Device& device, const Options& options, const Model& model, Rows& rows) {
  const ModelConfig& config = model.config();
  const int batch = options.smoke ? 2 : 16, context = options.smoke ? 40 : 1024;
  const int steps = options.smoke ? 4 : 32;  // so many tokens are whole blocks
  std::printf("\n## Decode, batch %d at %d tokens of context, while KV leaves for the other worker\n\n",
              batch, context);
  std::printf(
      "| tokens a step | step, us | more than without | throughput lost | Infinite-LLM's | "
      "done after the last step, ms |\n|---|---|---|---|---|---|\n");
  const int lent = Blocks(64 * steps), own = batch * Blocks(context);
  Pair pair(device, ShapeOf(config), LayoutOf(config), config.layers, std::max(own, lent), lent);
  const auto on_gpu = Take(GpuModel::Load(model, device.index()));
  const auto machine = Take(GpuMachine::Create(on_gpu, pair.storage(), pair.client()));
  CHECK_OK(machine->Reserve(batch, batch));
  SamplingParams greedy;
  greedy.temperature = 0;
  StepWork work;
  for (int i = 0; i < batch; ++i) {
    LocalSpan span{.token_count = context};
    for (int b = 0; b < Blocks(context); ++b) span.blocks.push_back(BlockId(i * Blocks(context) + b));
    work.plan.new_kv.push_back({span.blocks.back(), (context - 1) % kBlock});
    work.plan.sequences.push_back(
        {.first_row = i, .rows = 1, .first_position = context - 1, .spans = {std::move(span)}});
    work.input.tokens.push_back(i);
    work.input.positions.push_back(context - 1);
    work.input.logit_rows.push_back(i);
    work.input.sampling.push_back({.params = &greedy});
  }
  double without = 0;
  uint64_t transfer = 0;
  for (const int tokens : {0, 8, 16, 32, 64}) {
    std::vector<double> seconds, after;
    for (int round = -1; round < options.rounds; ++round) {
      ++transfer;
      const double start = Seconds(Clock::kWall);
      for (int step = 0; step < steps; ++step) {
        work.step = transfer * 1000 + step;
        work.sends.clear();
        KvSend send{.transfer = transfer, .creditor = 1, .loan = kLoan, .blocks = {}};
        send.first_slot = static_cast<uint32_t>(step * tokens / kBlock);
        for (int b = send.first_slot; b < (step + 1) * tokens / kBlock; ++b)
          send.blocks.push_back(BlockId(b));
        if (!send.blocks.empty()) work.sends.push_back(std::move(send));
        CHECK_OK(machine->Run(work).status());
      }
      const double end = Seconds(Clock::kWall);
      if (tokens > 0) pair.WaitFor(transfer);
      if (round < 0) continue;
      seconds.push_back((end - start) / steps);
      after.push_back(Seconds(Clock::kWall) - end);
    }
    const double median = Median(seconds);
    if (tokens == 0) without = median;
    const double lost = 1 - without / median;
    nlohmann::json row = {{"name", absl::StrCat("migrate/", tokens)},
                          {"median_us", 1e6 * median},
                          {"more", median / without - 1},
                          {"throughput_lost", lost}};
    std::string beside;
    if (const auto it = kPublishedLoss.find(tokens); it != kPublishedLoss.end()) {
      beside = it->second == 0 ? "none seen" : absl::StrFormat("%.1f %%", 100 * it->second);
      row["published_throughput_lost"] = it->second;
    }
    std::printf("| %d | %.0f | %.1f %% | %.1f %% | %s | %.1f |\n", tokens, 1e6 * median,
                100 * (median / without - 1), 100 * lost, beside.c_str(), 1e3 * Median(after));
    rows.Add(std::move(row));
  }
}

}  // namespace
}  // namespace lombard::bench

int main(int argc, char** argv) {
  using namespace lombard::bench;  // NOLINT: this is the benchmark
  return GpuBenchMain(argc, argv, "gpu_lending_bench", 10,
                      [](Device& device, const Options& options, const Ceilings&, Rows& rows) {
                        const auto model = DummyModelOf(options.smoke ? "tiny" : "llama-2-13b");
                        ShipOrFetch(device, options, model->config(), rows);
                        Migrate(device, options, *model, rows);
                      });
}
