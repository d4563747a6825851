// Two engines with their managers, whose messages the test carries. Steps compute nothing, what is to be
// moved is there at once, and time is virtual: the same on every run.
#pragma once

#include <gtest/gtest.h>

#include <numeric>

#include "runtime/engine/engine.h"

namespace lombard {

inline constexpr uint32_t kBlock = 4, kHead = 10 * kBlock;  // tokens

// Whatever is to be moved is there at once, unless `stored` says otherwise.
struct InstantMover : KvMover {
  bool stored = true;
  void Send(const KvSend&) override {}
  void Fetch(const KvFetch&) override {}
  KvTransfer transfer(uint64_t) override { return {.sent = 1, .stored = stored ? 1u : 0u, .status = {}}; }
  void ForgetTransfer(uint64_t) override {}
  void Copy(BlockId, BlockId) override {}
  void Poison(BlockId) override {}
};

struct Rank {
  Rank(uint32_t self, uint32_t blocks, const EngineOptions& engine_options, const Tokenizer* tokenizer)
      : pool(blocks),
        rmanager({.self = InstanceId{self}, .instances = 2, .reserve = 0, .lent_max = 1}, &pool),
        engine(engine_options,
               {.layer_windows = {0},
                .vocab_size = 100,
                .eos_token_ids = {},
                .fingerprint = 1,
                .kv_format = "none"},
               tokenizer, &pool, &rmanager, &mover) {}
  KvPool pool;
  InstantMover mover;
  RManager rmanager;
  Engine engine;
  uint64_t rows = 0;              // computed
  AttentionPlan plan;             // of the last step
  messages::Heartbeat heartbeat;  // the last one
};

class TwoEngines : public testing::Test {
 protected:
  static constexpr uint32_t kHolder = 0, kReader = 1;

  explicit TwoEngines(uint32_t holder_blocks = 100, bool copy = false) {
    EngineOptions options{.block_tokens = kBlock,
                          .max_batch_tokens = 2 * kBlock,  // a prefix takes several steps
                          .max_model_len = 1000,
                          .cluster_blocks = 200,
                          .sharing = SharingCost::OfReading(1),
                          .remote_prefix_min = kBlock,
                          .copy_prefixes = copy};
    auto tokenizer = Tokenizer::Load("tests/data/tiny");
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *std::move(tokenizer);
    for (const uint32_t self : {kHolder, kReader}) {
      options.self = InstanceId{self};
      ranks_.push_back(
          std::make_unique<Rank>(self, self == kHolder ? holder_blocks : 100, options, tokenizer_.get()));
    }
  }

  // A request whose prompt is the common head and some tokens of its own.
  RequestId Submit(uint32_t rank, std::optional<uint32_t> hint = {}, uint32_t head = kHead) {
    const uint64_t number = next_++;
    SequenceRequest request{.id = {number, number}, .prompt = std::vector<int32_t>(head), .output = {}};
    std::iota(request.prompt.begin(), request.prompt.end(), 0);
    for (int i = 0; i < 3; ++i) request.prompt.push_back(static_cast<int32_t>(90 + number));
    request.sampling.max_tokens = 20, request.sampling.ignore_eos = true;
    if (hint.has_value()) request.prefix = {InstanceId{*hint}, head};
    ranks_[rank]->engine.Submit(request, now_);
    return request.id;
  }

  // What one round of a worker's step loop does.
  void Step(uint32_t rank) {
    Rank& r = *ranks_[rank];
    r.rmanager.Tick(now_);
    for (const RManager::Event& event : r.rmanager.TakeEvents()) r.engine.HandleEvent(event, now_);
    if (const StepWork* work = r.engine.Begin(now_)) {
      r.plan = work->plan;
      StepResult result;
      for (size_t i = 0; i < work->input.logit_rows.size(); ++i)
        result.sampled.push_back(SampledToken{.id = 50});
      r.rows += static_cast<uint64_t>(r.engine.Finish(result, now_).rows);
    }
    EXPECT_TRUE(r.engine.CheckInvariants().ok()) << r.engine.CheckInvariants();
    Carry();
  }
  // Until nobody has anything to say.
  void Carry() {
    for (bool more = true; more;) {
      more = false;
      for (uint32_t from : {kHolder, kReader}) {
        for (const Outgoing& out : ranks_[from]->rmanager.TakeOutgoing()) {
          if (out.message.has_heartbeat()) ranks_[from]->heartbeat = out.message.heartbeat();
          if (out.message.has_heartbeat() || out.message.has_move_kv_done()) continue;
          ranks_[static_cast<size_t>(out.to)]->rmanager.Handle(static_cast<int>(from), out.message, now_);
          more = true;
        }
      }
    }
  }
  // As gManager would.
  void AdviseMove(uint32_t home, RequestId request, uint32_t blocks, uint32_t to) {
    messages::ControlMessage advice;
    advice.set_incarnation(1);
    advice.mutable_move_kv()->set_plan_id(next_plan_++);
    advice.mutable_move_kv()->mutable_request()->set_arrival_us(request.arrival_us);
    advice.mutable_move_kv()->mutable_request()->set_number(request.number);
    advice.mutable_move_kv()->set_blocks(blocks);
    advice.mutable_move_kv()->set_to(to);
    At(home).rmanager.Handle(0, advice, now_);
  }
  const BlockTable& TableOf(uint32_t rank, RequestId request) {
    for (const auto& [id, table] : At(rank).engine.tables()) {
      if (id == request) return *table;
    }
    static const BlockTable none(kBlock);
    return none;
  }
  void Pass(absl::Duration time) { now_ += time; }
  Rank& At(uint32_t rank) { return *ranks_[rank]; }
  uint64_t Granted() { return At(kHolder).rmanager.counters().prefixes_granted; }

  absl::Time now_ = absl::UnixEpoch() + absl::Hours(1);
  uint64_t next_ = 1, next_plan_ = 1;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::vector<std::unique_ptr<Rank>> ranks_;
};

}  // namespace lombard
