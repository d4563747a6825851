#include "tests/support/split_forward.h"

#include <atomic>
#include <cmath>
#include <map>
#include <thread>

#include "base/check.h"
#include "base/status.h"
#include "distattn/remote_client.h"
#include "distattn/remote_service.h"
#include "distattn/step_attention.h"
#include "fabric/loopback_transport.h"
#include "kvpool/kv_storage.h"
#include "runtime/engine/transformer.h"

namespace lombard {
namespace {

// Polls one transport and hands its messages to a client or a service.
class Pump : public TransportHandler {
 public:
  Pump(Transport* transport, RemoteClient* client, RemoteService* service)
      : transport_(transport), client_(client), service_(service), thread_([this] {
          while (!stop_) transport_->Poll(*this, absl::Milliseconds(5));
        }) {}
  ~Pump() override {
    stop_ = true;
    transport_->Wake();
    thread_.join();
  }
  void OnMessage(int from, Message message) override {
    client_ != nullptr ? client_->OnMessage(from, std::move(message))
                       : service_->Enqueue(from, std::move(message));
  }
  void OnPeerDown(int, const absl::Status&) override {}

 private:
  Transport* transport_;
  RemoteClient* client_;
  RemoteService* service_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace

absl::StatusOr<std::vector<float>> SplitForward(const Model& model, const std::vector<int32_t>& prompt,
                                                const SplitForwardOptions& options) {
  const ModelConfig& c = model.config();
  const int block_tokens = options.block_tokens, tokens = static_cast<int>(prompt.size());
  const int blocks = (tokens + block_tokens - 1) / block_tokens;
  const KvLayout layout{
      .dtype = c.dtype, .kv_heads = c.kv_heads, .head_dim = c.head_dim, .block_tokens = block_tokens};
  const AttentionShape shape{.q_heads = c.q_heads,
                             .scale = 1 / std::sqrt(static_cast<float>(c.head_dim)),
                             .layer_windows = c.layer_windows};

  auto transports = MakeLoopbackTransports(1 + options.creditors);
  std::vector<std::unique_ptr<KvStorage>> stores;
  for (int i = 0; i <= options.creditors; ++i) {
    ASSIGN_OR_RETURN(auto store, KvStorage::Create(layout, c.layers, static_cast<uint32_t>(blocks)));
    for (int b = 0; b < blocks; ++b) store->Poison(BlockId(b));
    stores.push_back(std::move(store));
  }
  RemoteClient client(
      {.reply_deadline = absl::Seconds(60), .compact_states = options.compact_states, .on_transfer = {}},
      c.q_heads, transports[0].get(), stores[0].get());
  // Loan l holds blocks_per_loan blocks, at the creditor's own ids l * blocks_per_loan + slot, back to front.
  const auto blocks_of_loan = [&](int, LoanId loan, uint64_t,
                                  bool) -> absl::StatusOr<std::shared_ptr<const std::vector<BlockId>>> {
    auto ids = std::make_shared<std::vector<BlockId>>();
    for (int slot = 0; slot < options.blocks_per_loan; ++slot) {
      ids->push_back(
          BlockId(blocks - 1 - (static_cast<int>(Value(loan)) * options.blocks_per_loan + slot) % blocks));
    }
    return std::shared_ptr<const std::vector<BlockId>>(ids);
  };
  std::vector<std::unique_ptr<CpuSpanAttention>> attentions;
  std::vector<std::unique_ptr<RemoteService>> services;
  std::vector<std::thread> service_threads;
  std::vector<std::unique_ptr<Pump>> pumps;
  pumps.push_back(std::make_unique<Pump>(transports[0].get(), &client, nullptr));
  for (int i = 1; i <= options.creditors; ++i) {
    attentions.push_back(
        std::make_unique<CpuSpanAttention>(shape, CpuContext{options.context.isa, nullptr}, stores[i].get()));
    services.push_back(std::make_unique<RemoteService>(
        RemoteService::Options{.q_heads = c.q_heads, .isa = options.context.isa}, stores[i].get(),
        attentions.back().get(), transports[i].get(), blocks_of_loan));
    service_threads.emplace_back([service = services.back().get()] { service->Serve(); });
    pumps.push_back(std::make_unique<Pump>(transports[i].get(), nullptr, services.back().get()));
  }

  Transformer transformer(&model, options.context);
  StepAttention attention(shape, options.context, stores[0].get(), &client);
  std::vector<float> all_logits;
  absl::Status status;
  int lent = 0;  // blocks
  for (int begin = 0; begin < tokens && status.ok(); begin += options.chunk_tokens) {
    const int end = std::min(tokens, begin + options.chunk_tokens);
    AttentionPlan plan;
    SequenceRows rows{.first_row = 0, .rows = end - begin, .first_position = begin};
    for (int block = 0; block < lent;) {
      const int loan = block / options.blocks_per_loan, slot = block % options.blocks_per_loan;
      const int count = std::min(lent - block, options.blocks_per_loan - slot);
      rows.spans.push_back(LentSpan{.loan = LoanId(loan),
                                    .creditor = 1 + loan % options.creditors,
                                    .first_slot = static_cast<uint32_t>(slot),
                                    .first_position = block * block_tokens,
                                    .token_count = count * block_tokens});
      block += count;
    }
    LocalSpan local{.first_position = lent * block_tokens, .token_count = end - lent * block_tokens};
    for (int block = lent; block * block_tokens < end; ++block) local.blocks.push_back(BlockId(block));
    rows.spans.push_back(std::move(local));
    plan.sequences.push_back(std::move(rows));
    StepInput input;
    for (int t = begin; t < end; ++t) {
      plan.new_kv.push_back({BlockId(t / block_tokens), t % block_tokens});
      input.tokens.push_back(prompt[t]);
      input.positions.push_back(t);
      input.logit_rows.push_back(t - begin);
    }
    attention.Begin(static_cast<uint64_t>(begin), &plan);
    std::vector<float> logits;
    status = transformer.Forward(
        input,
        [&](int layer, float* q, const float* k, const float* v, float* out) {
          return attention.Attend(layer, q, k, v, out);
        },
        &logits);
    all_logits.insert(all_logits.end(), logits.begin(), logits.end());

    while (status.ok() && options.creditors > 0 && end / block_tokens - lent > options.local_blocks) {
      const int loan = lent / options.blocks_per_loan;
      for (int layer = 0; layer < c.layers; ++layer) {
        client.SendKv({.transfer = static_cast<uint64_t>(lent),
                       .creditor = 1 + loan % options.creditors,
                       .loan = LoanId(loan),
                       .first_slot = static_cast<uint32_t>(lent % options.blocks_per_loan),
                       .blocks = {BlockId(lent)}},
                      layer);
      }
      while (!client.transfer(static_cast<uint64_t>(lent)).done()) std::this_thread::yield();
      status = client.transfer(static_cast<uint64_t>(lent)).status;
      stores[0]->Poison(BlockId(lent));
      ++lent;
    }
  }
  for (auto& service : services) service->Stop();
  for (std::thread& thread : service_threads) thread.join();
  RETURN_IF_ERROR(status);
  return all_logits;
}

}  // namespace lombard
