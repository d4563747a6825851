// One decode step of a real model shape over a long context: all KV at home with both cores, against half of
// it at a second rank with one core each (rank r is kept on core r). Prints the parts of both, the
// whole-model decode over a short context, and the read bandwidth, all from interleaved runs.
//
//   lombard model create --preset llama-3.2-1b --output /tmp/llama-3.2-1b
//   mpirun -n 2 --bind-to none build/ci/bin/decode_step_bench /tmp/llama-3.2-1b [context tokens] [rounds]
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>
#include <random>
#include <thread>

#include "absl/strings/numbers.h"
#include "base/check.h"
#include "distattn/remote_client.h"
#include "distattn/remote_service.h"
#include "distattn/step_attention.h"
#include "fabric/bootstrap.h"
#include "fabric/make_transport.h"
#include "runtime/engine/transformer.h"

namespace lombard {
namespace {

constexpr int kBlockTokens = 32;

double Seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

// The calling thread, and those it starts from now on.
void StayOn(std::initializer_list<int> cores) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int core : cores) CPU_SET(core, &set);
  CHECK_EQ(sched_setaffinity(0, sizeof set, &set), 0) << "this benchmark needs two cores";
}

// bf16 of small numbers, written by both threads.
void FillWithNoise(const KvStorage& storage) {
  std::thread halves[2];
  for (int half = 0; half < 2; ++half) {
    halves[half] = std::thread([&storage, half] {
      std::minstd_rand random(half + 1);
      for (uint32_t b = half; b < storage.block_count(); b += 2) {
        for (int layer = 0; layer < storage.layers(); ++layer) {
          for (std::byte* bytes : {storage.k(layer, BlockId(b)), storage.v(layer, BlockId(b))}) {
            auto* values = reinterpret_cast<uint16_t*>(bytes);
            for (int64_t i = 0; i < storage.layout().block_elements(); ++i) {
              values[i] = BF16FromFloat(static_cast<float>(random() % 2001) / 1000.0f - 1);
            }
          }
        }
      }
    });
  }
  for (std::thread& half : halves) half.join();
}

double ReadBandwidth(const KvStorage& storage, ThreadPool& pool) {  // bytes per second over the whole store
  const size_t bytes =
      static_cast<size_t>(KvStorage::BlockBytes(storage.layout(), storage.layers())) * storage.block_count();
  const auto* data = reinterpret_cast<const uint64_t*>(storage.k(0, BlockId{0}));
  std::atomic<uint64_t> sink{0};
  constexpr int kParts = 64;
  const double start = Seconds();
  pool.Run(kParts, [&](int part) {
    uint64_t sum[8] = {};
    for (size_t i = bytes / 8 / kParts * part; i + 8 <= bytes / 8 / kParts * (part + 1); i += 8) {
      for (int j = 0; j < 8; ++j) sum[j] ^= data[i + j];
    }
    for (uint64_t s : sum) sink ^= s;
  });
  return bytes / (Seconds() - start);
}

class Pump : public TransportHandler {
 public:
  Pump(Transport* transport, RemoteClient* client, RemoteService* service)
      : transport_(transport), client_(client), service_(service), thread_([this] {
          while (!stop_) transport_->Poll(*this, absl::Milliseconds(20));
        }) {}
  ~Pump() override {
    stop_ = true;
    transport_->Wake();
    thread_.join();
    transport_->Close(absl::Seconds(3));
  }
  void OnMessage(int from, Message message) override {
    message.channel == Channel::kState ? client_->OnMessage(from, std::move(message))
                                       : service_->Enqueue(from, std::move(message));
  }
  void OnPeerDown(int, const absl::Status&) override { down_ = true; }
  bool down() const { return down_; }

 private:
  Transport* transport_;
  RemoteClient* client_;
  RemoteService* service_;
  std::atomic<bool> stop_{false}, down_{false};
  std::thread thread_;
};

struct StepTimes {
  double whole, local, send, wait, merge;
  double attention() const { return local + send + wait + merge; }
};

struct Series {
  std::vector<double> whole, attention, local, send, wait, merge;
  void Add(const StepTimes& t) {
    whole.push_back(t.whole), attention.push_back(t.attention()), local.push_back(t.local);
    send.push_back(t.send), wait.push_back(t.wait), merge.push_back(t.merge);
  }
  void Print(const char* name) const {
    std::printf(
        "%-28s whole step %8.2f ms | attention %8.2f ms = local %.2f + send %.2f + wait %.2f + merge %.2f | "
        "rest %.2f ms\n",
        name, 1e3 * Median(whole), 1e3 * Median(attention), 1e3 * Median(local), 1e3 * Median(send),
        1e3 * Median(wait), 1e3 * Median(merge), 1e3 * (Median(whole) - Median(attention)));
  }
};

int Run(const std::string& dir, int context, int rounds) {
  auto bootstrap = DetectBootstrap({});
  CHECK_OK(bootstrap.status());
  const int rank = (*bootstrap)->layout().rank, size = (*bootstrap)->layout().size;
  CHECK_EQ(size, 2) << "run under mpirun -n 2";
  auto model = Model::Load(dir);
  CHECK_OK(model.status());
  const ModelConfig& c = (*model)->config();
  const KvLayout layout{
      .dtype = c.dtype, .kv_heads = c.kv_heads, .head_dim = c.head_dim, .block_tokens = kBlockTokens};
  const AttentionShape shape{.q_heads = c.q_heads,
                             .scale = 1 / std::sqrt(static_cast<float>(c.head_dim)),
                             .layer_windows = c.layer_windows};
  const int blocks = context / kBlockTokens;
  auto storage = KvStorage::Create(layout, c.layers, static_cast<uint32_t>(rank == 0 ? blocks : blocks / 2));
  CHECK_OK(storage.status());
  FillWithNoise(**storage);
  StayOn({rank});
  auto fabric = MakeUcxTransport(**bootstrap, {});
  CHECK_OK(fabric.status());
  Transport* const transport = fabric->transport.get();
  const Isa isa = DetectIsa();

  RemoteClient client({.reply_deadline = absl::Seconds(30), .on_transfer = {}}, c.q_heads, transport,
                      storage->get());
  CpuSpanAttention span_attention(shape, {isa, nullptr}, storage->get());
  RemoteService service(
      {.q_heads = c.q_heads, .isa = isa}, storage->get(), &span_attention, transport,
      [&](int, LoanId, uint64_t, bool) -> absl::StatusOr<std::shared_ptr<const std::vector<BlockId>>> {
        auto ids = std::make_shared<std::vector<BlockId>>();
        for (int b = 0; b < blocks / 2; ++b) ids->push_back(BlockId(b));
        return std::shared_ptr<const std::vector<BlockId>>(ids);
      });
  std::thread serving([&] { service.Serve(); });
  int status = 0;
  {
    Pump pump(transport, &client, &service);
    if (rank == 1) {
      while (!pump.down()) std::this_thread::sleep_for(std::chrono::milliseconds(50));
    } else {
      StayOn({0, 1});
      ThreadPool both(2);
      const auto step = [&](ThreadPool* pool, int local_blocks, int lent_blocks) {
        const CpuContext cpu{isa, pool};
        Transformer transformer(model->get(), cpu);
        StepAttention attention(shape, cpu, storage->get(), &client);
        const int position = (local_blocks + lent_blocks) * kBlockTokens - 1;
        SequenceRows rows{.first_row = 0, .rows = 1, .first_position = position};
        if (lent_blocks > 0)
          rows.spans.push_back(
              LentSpan{.creditor = 1, .first_position = 0, .token_count = lent_blocks * kBlockTokens});
        LocalSpan local{.first_position = lent_blocks * kBlockTokens,
                        .token_count = local_blocks * kBlockTokens};
        for (int b = 0; b < local_blocks; ++b) local.blocks.push_back(BlockId(b));
        const AttentionPlan plan{.sequences = {rows}, .new_kv = {{local.blocks.back(), kBlockTokens - 1}}};
        AttentionPlan whole = plan;
        whole.sequences[0].spans.push_back(local);
        attention.Begin(1, &whole);
        std::vector<float> logits;
        const double start = Seconds();
        const absl::Status done = transformer.Forward(
            {.tokens = {7}, .positions = {position}, .logit_rows = {0}},
            [&](int layer, float* q, const float* k, const float* v, float* out) {
              return attention.Attend(layer, q, k, v, out);
            },
            &logits);
        CHECK_OK(done);
        const auto& t = attention.timing();
        return StepTimes{Seconds() - start, t.local, t.send, t.wait, t.merge};
      };
      Series all_local, half_remote, short_context;
      std::vector<double> bandwidth;
      for (int round = 0; round <= rounds; ++round) {
        const double b = ReadBandwidth(**storage, both);
        const StepTimes one = step(&both, blocks, 0), three = step(&both, 1, 0);
        StayOn({0});
        const StepTimes two = step(nullptr, blocks / 2, blocks / 2);
        StayOn({0, 1});
        if (round == 0) continue;  // warm-up
        bandwidth.push_back(b), all_local.Add(one), half_remote.Add(two), short_context.Add(three);
      }
      const double ceiling = Median(bandwidth),
                   kv = static_cast<double>(c.KvBytesPerToken(c.dtype)) * context;
      const double weights = static_cast<double>((*model)->weight_bytes());
      std::printf("%s, context %d tokens (%.3f GB of KV), %d rounds, medians; isa %s; %s\n", dir.c_str(),
                  context, kv / 1e9, rounds, std::string(IsaName(isa)).c_str(),
                  transport->Describe().c_str());
      std::printf("read bandwidth, both cores: %.2f GB/s\n", ceiling / 1e9);
      all_local.Print("all local, two threads");
      half_remote.Print("half remote, a core each");
      short_context.Print("short context, two threads");
      std::printf("attention, half remote / all local: %.3f\n",
                  Median(half_remote.attention) / Median(all_local.attention));
      std::printf("attention, all local: %.1f %% of read bandwidth\n",
                  100 * kv / Median(all_local.attention) / ceiling);
      std::printf("whole-model decode: %.1f %% of weight bytes / bandwidth (%.3f GB)\n",
                  100 * weights / ceiling / Median(short_context.whole), weights / 1e9);
    }
  }
  service.Stop();
  serving.join();
  (*bootstrap)->Finish(true);
  return status;
}

}  // namespace
}  // namespace lombard

int main(int argc, char** argv) {
  int context = 32768, rounds = 9;
  if (argc < 2 || (argc > 2 && !absl::SimpleAtoi(argv[2], &context)) ||
      (argc > 3 && !absl::SimpleAtoi(argv[3], &rounds))) {
    std::fprintf(stderr, "usage: decode_step_bench MODEL_DIR [context tokens] [rounds]\n");
    return 2;
  }
  return lombard::Run(argv[1], context, rounds);
}
