// One worker's decisions; messages are written by hand and the steps compute nothing.
#include "runtime/worker/instance.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/model/byte_tokenizer.h"
#include "runtime/model/tokenizer/tokenizer.h"
#include "runtime/worker/convert.h"

namespace lombard {
namespace {

using messages::ControlMessage;
using testing::ElementsAre;
using testing::IsEmpty;

class NoMover final : public KvMover {
 public:
  void Fetch(const KvFetch&) override {}
  void Send(const KvSend&) override {}
  KvTransfer transfer(uint64_t) override { return {}; }
  void ForgetTransfer(uint64_t) override {}
  void Copy(BlockId, BlockId) override {}
  void Poison(BlockId) override {}
};

class InstanceTest : public testing::Test {
 protected:
  static constexpr int kVocabulary = 8;

  InstanceTest() {
    auto tokenizer = Tokenizer::Parse(ByteTokenizer(Presets()[0]).tokenizer_json, "test");
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *std::move(tokenizer);
    engine_ = std::make_unique<Engine>(
        EngineOptions{.block_tokens = 4, .headroom_tokens = 4, .max_model_len = 100, .cluster_blocks = 8},
        EngineModel{.layer_windows = {0}, .vocab_size = kVocabulary}, tokenizer_.get(), &pool_, &rmanager_,
        &mover_);
    instance_.emplace(Incarnation{1}, /*front_door=*/0, &pool_, &rmanager_, engine_.get());
  }

  void Submit(uint64_t number, uint64_t to_incarnation, uint32_t prompt = 5) {
    SequenceRequest request{.id = {100, number}, .prompt = std::vector<int32_t>(prompt, 1)};
    request.sampling.max_tokens = 3;
    request.sampling.temperature = 0;
    request.sampling.ignore_eos = true;
    ControlMessage message;
    message.set_incarnation(1);
    ToMessage(request, message.mutable_submit());
    message.mutable_submit()->set_to_incarnation(to_incarnation);
    ASSERT_TRUE(instance_->Handle(0, message, now_).ok());
  }
  void Fence(uint64_t incarnation) {
    ControlMessage message;
    message.set_incarnation(1);
    message.mutable_fenced()->set_incarnation(incarnation);
    ASSERT_TRUE(instance_->Handle(0, message, now_).ok());
  }
  // A loan of two blocks to rank 2, in use.
  void Lend() {
    ControlMessage ask;
    ask.set_incarnation(1);
    ask.mutable_try_move_kv()->set_ticket(1);
    ask.mutable_try_move_kv()->mutable_request()->set_number(9);
    ask.mutable_try_move_kv()->set_blocks(2);
    ask.mutable_try_move_kv()->set_purpose(messages::PURPOSE_ADMISSION);
    ASSERT_TRUE(instance_->Handle(2, ask, now_).ok());
    ControlMessage activate;
    activate.set_incarnation(1);
    for (const Outgoing& out : instance_->TakeOutgoing()) {
      if (out.message.has_try_move_kv_reply())
        *activate.mutable_activate_loan()->mutable_loan() = out.message.try_move_kv_reply().loan();
    }
    ASSERT_TRUE(activate.has_activate_loan());
    ASSERT_TRUE(instance_->Handle(2, activate, now_).ok());
    ASSERT_EQ(rmanager_.hosted()->loans.size(), 1u);
  }
  bool Step() {
    instance_->Tick(now_);
    const StepWork* work = instance_->BeginStep(now_);
    if (work == nullptr) return false;
    StepResult result;
    for (size_t row = 0; row < work->input.logit_rows.size(); ++row) {
      for (int i = 0; i < kVocabulary; ++i) result.logits.push_back(i == 6 ? 1 : 0);
    }
    instance_->FinishStep(std::move(result), now_);
    return true;
  }
  // (incarnation, token) of what the front door is sent.
  std::vector<std::pair<uint64_t, int32_t>> TakeTokens() {
    std::vector<std::pair<uint64_t, int32_t>> tokens;
    for (const Outgoing& out : instance_->TakeOutgoing()) {
      for (const messages::TokenEvent& event : out.message.tokens().events()) {
        EXPECT_EQ(out.to, 0);
        if (event.has_token()) tokens.emplace_back(out.message.incarnation(), event.token());
      }
    }
    return tokens;
  }

  absl::Time now_ = absl::UnixEpoch() + absl::Seconds(1);
  std::unique_ptr<Tokenizer> tokenizer_;
  KvPool pool_{8};
  RManager rmanager_{{.self = InstanceId{1}, .instances = 3}, &pool_};
  NoMover mover_;
  std::unique_ptr<Engine> engine_;
  std::optional<Instance> instance_;
};

TEST_F(InstanceTest, RunsWhatItIsGiven) {
  Submit(1, 1);
  Submit(1, 1);  // a copy
  EXPECT_EQ(engine_->waiting_count(), 1u);
  EXPECT_FALSE(instance_->quiet());
  while (Step()) {
  }
  EXPECT_THAT(TakeTokens(), ElementsAre(std::pair(1, 6), std::pair(1, 6), std::pair(1, 6)));
  EXPECT_TRUE(instance_->quiet());
}

TEST_F(InstanceTest, WhatIsMeantForAnotherProcessIsDropped) {
  Submit(1, 2);
  EXPECT_TRUE(engine_->idle());
}

TEST_F(InstanceTest, WhatTheNewestMembersCanHoldIsAccepted) {
  ControlMessage list;
  list.set_incarnation(1);
  list.mutable_cluster_view()->set_epoch(1);
  list.mutable_cluster_view()->set_members_number(1);
  for (uint32_t i : {0u, 1u}) {
    messages::Member& member = *list.mutable_cluster_view()->add_members();
    member.set_instance(i), member.set_incarnation(1), member.set_kv_blocks(8);
    member.set_state(messages::MEMBER_ALIVE);
  }
  Submit(1, 1, 40);  // more than the engine's eight blocks hold
  ASSERT_TRUE(instance_->Handle(0, list, now_).ok());
  Submit(2, 1, 40);  // in the same turn
  EXPECT_FALSE(engine_->Knows({100, 1}));
  EXPECT_TRUE(engine_->Knows({100, 2}));
}

TEST_F(InstanceTest, AFencedProcessForgetsEverythingAndGoesOnAsAnother) {
  Submit(1, 1);
  Lend();
  ASSERT_TRUE(Step());
  Fence(1);
  EXPECT_FALSE(Step());
  EXPECT_EQ(instance_->incarnation(), Incarnation{2});
  EXPECT_EQ(instance_->fenced_count(), 1u);
  EXPECT_TRUE(instance_->quiet());
  EXPECT_EQ(pool_.used_count(), 0u);
  EXPECT_THAT(rmanager_.hosted()->loans, IsEmpty());
  // What it had computed is not told any more; the first it tells is that it is there.
  bool beat = false;
  for (const Outgoing& out : instance_->TakeOutgoing()) {
    EXPECT_EQ(out.message.incarnation(), 2u);
    EXPECT_FALSE(out.message.has_tokens());
    beat |= out.message.has_heartbeat() && out.message.heartbeat().full();
  }
  EXPECT_TRUE(beat);
  Submit(1, 1);  // for the process it was
  EXPECT_TRUE(engine_->idle());
  Submit(1, 2);
  while (Step()) {
  }
  EXPECT_THAT(TakeTokens(), ElementsAre(std::pair(2, 6), std::pair(2, 6), std::pair(2, 6)));
}

TEST_F(InstanceTest, AFenceOfAnEarlierProcessChangesNothing) {
  Fence(1);
  Step();
  Fence(1);
  Step();
  EXPECT_EQ(instance_->incarnation(), Incarnation{2});
  EXPECT_EQ(instance_->fenced_count(), 1u);
  Fence(4);  // somebody else was 4
  Step();
  EXPECT_EQ(instance_->incarnation(), Incarnation{5});
}

TEST_F(InstanceTest, ARequestWithInvalidParametersIsAnError) {
  ControlMessage message;
  message.set_incarnation(1);
  message.mutable_submit()->set_to_incarnation(1);
  message.mutable_submit()->mutable_sampling()->set_top_p(-1);
  EXPECT_FALSE(instance_->Handle(0, message, now_).ok());
}

}  // namespace
}  // namespace lombard
