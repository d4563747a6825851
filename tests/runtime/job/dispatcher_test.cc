// The front door's state machine; members and tokens are written by hand.
#include "runtime/job/dispatcher.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/worker/convert.h"

namespace lombard {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

constexpr RequestId kRequest{100, 1};

class DispatcherTest : public testing::Test {
 protected:
  // Incarnation of each instance; negative: lost.
  void Members(const std::vector<int>& incarnations) {
    std::vector<Membership::Member> members;
    for (int incarnation : incarnations) {
      using State = Membership::State;
      members.push_back({.state = incarnation > 0 ? State::kAlive : State::kLost,
                         .incarnation = Incarnation(std::abs(incarnation))});
    }
    dispatcher_.OnMembers(members, now_);
  }
  void Submit(const RequestId& id = kRequest, uint32_t prompt = 3, uint32_t max_tokens = 4) {
    SequenceRequest request{.id = id, .prompt = std::vector<int32_t>(prompt, 5)};
    request.sampling.max_tokens = max_tokens;
    dispatcher_.Submit(std::move(request), now_);
  }
  struct Given {
    int to;
    uint64_t incarnation;
    std::vector<int32_t> output;
    bool operator==(const Given&) const = default;
  };
  std::vector<Given> TakeGiven() {
    std::vector<Given> given;
    for (const Outgoing& out : dispatcher_.TakeOutgoing()) {
      if (!out.message.has_submit()) continue;
      const messages::SubmitSequence& submit = out.message.submit();
      lost_home_ = submit.lost_home();
      given.push_back({out.to, submit.to_incarnation(), {submit.output().begin(), submit.output().end()}});
    }
    return given;
  }
  messages::LostHome lost_home_;  // of the last one given
  void Token(int from, uint64_t incarnation, uint32_t index, int32_t token, bool finished = false,
             const RequestId& id = kRequest) {
    messages::TokenBatch batch;
    ToMessage(SequenceOutput{.id = id, .token = token, .index = index}, batch.add_events());
    if (finished) {
      ToMessage(SequenceOutput{.id = id, .finished = true, .finish_reason = "length"}, batch.add_events());
    }
    dispatcher_.OnTokens(from, incarnation, batch, now_);
  }
  std::vector<int32_t> TakeTokens() {
    std::vector<int32_t> tokens;
    for (const SequenceOutput& output : dispatcher_.TakeOutputs()) {
      if (output.token.has_value()) tokens.push_back(*output.token);
      if (output.finished) tokens.push_back(-1);
    }
    return tokens;
  }

  absl::Time now_ = absl::UnixEpoch();
  Dispatcher dispatcher_{{{.capacity = 100, .lendable = 50}, {.capacity = 100, .lendable = 50}},
                         {.recovery_wait = absl::Seconds(60)}};
};

TEST_F(DispatcherTest, AHandedBackRequestGoesOnWithItsTokens) {
  Members({1, 1});
  Submit();
  const int home = TakeGiven()[0].to, other = 1 - home;
  Token(home, 1, 0, 7);
  messages::HandBack back;
  back.add_sequences()->set_arrival_us(kRequest.arrival_us);
  back.mutable_sequences(0)->set_number(kRequest.number);
  dispatcher_.OnHandBack(home, 1, back, now_);
  EXPECT_THAT(TakeGiven(), ElementsAre(Given{other, 1, {7}}));
  Token(home, 1, 1, 8);
  EXPECT_THAT(TakeTokens(), ElementsAre(7)) << "what the old home still computed does not count";
  Members({1, 1});  // a list that does not know of it yet
  Submit({200, 2});
  EXPECT_THAT(TakeGiven(), ElementsAre(Given{other, 1, {}}));
  EXPECT_EQ(dispatcher_.counters().handed_back, 1u);
}

TEST_F(DispatcherTest, NothingIsGivenOutBeforeTheFirstList) {
  Submit();
  dispatcher_.Tick(now_);
  EXPECT_THAT(TakeGiven(), IsEmpty());
  Members({1, 1});
  EXPECT_THAT(TakeGiven(), ElementsAre(Given{0, 1, {}}));
}

TEST_F(DispatcherTest, EveryTokenIsDeliveredOnceAndInOrder) {
  Members({1, 1});
  Submit();
  Token(0, 1, 0, 7);
  Token(0, 1, 0, 7);
  Token(0, 1, 1, 8);
  Token(0, 1, 0, 7);
  Token(0, 1, 2, 9, /*finished=*/true);
  EXPECT_THAT(TakeTokens(), ElementsAre(7, 8, 9, -1));
  EXPECT_EQ(dispatcher_.counters().copied_tokens, 2u);
  EXPECT_EQ(dispatcher_.open_count(), 0u);
  Token(0, 1, 2, 9, /*finished=*/true);  // a copy after the end
  EXPECT_THAT(TakeTokens(), IsEmpty());
}

TEST_F(DispatcherTest, TokensOfAnyoneButTheHomeAreDropped) {
  Members({2, 2});
  Submit();
  Token(1, 2, 0, 7);  // another instance
  Token(0, 1, 0, 7);  // an earlier process
  Token(0, 3, 0, 7);  // one that the list does not know
  EXPECT_THAT(TakeTokens(), IsEmpty());
  EXPECT_EQ(dispatcher_.counters().stale_tokens, 3u);
  Token(0, 2, 0, 7);
  EXPECT_THAT(TakeTokens(), ElementsAre(7));
}

TEST_F(DispatcherTest, WhatALostProcessHadGoesOnElsewhere) {
  Members({1, 1});
  Submit();
  TakeGiven();
  Token(0, 1, 0, 7);
  Token(0, 1, 1, 8);
  Members({-1, 1});
  EXPECT_THAT(TakeGiven(), ElementsAre(Given{1, 1, {7, 8}}));
  EXPECT_EQ(lost_home_.instance(), 0u);  // whose creditors may still hold KV of it
  EXPECT_EQ(lost_home_.incarnation(), 1u);
  EXPECT_EQ(dispatcher_.counters().replayed, 1u);
  Token(0, 1, 2, 99);  // the first home, late
  Token(1, 1, 2, 9);
  Token(1, 1, 3, 10, /*finished=*/true);
  EXPECT_THAT(TakeTokens(), ElementsAre(7, 8, 9, 10, -1));
  EXPECT_EQ(dispatcher_.counters().stale_tokens, 1u);
}

TEST_F(DispatcherTest, ANewIncarnationIsAnotherProcess) {
  Members({1, -1});
  Submit();
  EXPECT_THAT(TakeGiven(), ElementsAre(Given{0, 1, {}}));
  Members({2, -1});
  EXPECT_THAT(TakeGiven(), ElementsAre(Given{0, 2, {}}));
  Members({2, 1});  // nothing becomes of those that stay
  EXPECT_THAT(TakeGiven(), IsEmpty());
}

TEST_F(DispatcherTest, AGapMeansThatTheWorkerIsBroken) {
  Members({1, 1});
  Submit();
  Token(0, 1, 0, 7);
  Token(0, 1, 2, 9);
  EXPECT_THAT(dispatcher_.TakeBroken(), ElementsAre(0));
  EXPECT_THAT(dispatcher_.TakeBroken(), IsEmpty());
  EXPECT_THAT(TakeTokens(), ElementsAre(7));
}

TEST_F(DispatcherTest, WaitsForMemoryThatIsGoneThenFailsWithBothNumbers) {
  Members({1, 1});
  Submit(kRequest, 100, 20);  // 120 tokens: more than one pool of 100
  TakeGiven();
  Token(0, 1, 0, 7);
  now_ += absl::Seconds(5);
  Members({-1, 1});
  EXPECT_THAT(TakeGiven(), IsEmpty());
  EXPECT_EQ(dispatcher_.NextDeadline(), now_ + absl::Seconds(60));
  now_ += absl::Seconds(59);
  dispatcher_.Tick(now_);
  EXPECT_EQ(dispatcher_.open_count(), 1u);
  TakeTokens();
  now_ += absl::Seconds(1);
  dispatcher_.Tick(now_);
  const std::vector<SequenceOutput> outputs = dispatcher_.TakeOutputs();
  ASSERT_THAT(outputs, SizeIs(1));
  EXPECT_TRUE(outputs[0].finished);
  EXPECT_EQ(outputs[0].error.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(outputs[0].error.message(), HasSubstr("make 120 tokens"));
  EXPECT_THAT(outputs[0].error.message(), HasSubstr("hold 100 tokens"));
  EXPECT_EQ(dispatcher_.open_count(), 0u);
  EXPECT_EQ(dispatcher_.NextDeadline(), absl::InfiniteFuture());
}

TEST_F(DispatcherTest, AWorkerThatComesInTimeGetsWhatWaited) {
  Members({1, 1});
  Submit(kRequest, 100, 20);
  TakeGiven();
  Token(0, 1, 0, 7);
  Members({-1, 1});
  now_ += absl::Seconds(59);
  Members({2, 1});
  EXPECT_THAT(TakeGiven(), ElementsAre(Given{0, 2, {7}}));
  now_ += absl::Seconds(59);
  dispatcher_.Tick(now_);
  EXPECT_EQ(dispatcher_.open_count(), 1u);
}

TEST_F(DispatcherTest, AHomeThatCanNoLongerHoldItIsToldToForgetIt) {
  Members({1, 1});
  Submit(kRequest, 100, 20);
  TakeGiven();
  Members({1, -1});  // its home lives, the one it may have borrowed from does not
  EXPECT_THAT(TakeGiven(), IsEmpty());
  now_ += absl::Seconds(60);
  dispatcher_.Tick(now_);
  const std::vector<Outgoing> outgoing = dispatcher_.TakeOutgoing();
  ASSERT_THAT(outgoing, SizeIs(1));
  EXPECT_EQ(outgoing[0].to, 0);
  ASSERT_TRUE(outgoing[0].message.has_cancel());
  EXPECT_EQ(outgoing[0].message.cancel().number(), kRequest.number);
}

TEST_F(DispatcherTest, WhatNoClusterCouldHoldIsTheEnginesToRefuse) {
  Members({1, 1});
  Submit(kRequest, 1000, 1);
  EXPECT_THAT(TakeGiven(), SizeIs(1));
  EXPECT_EQ(dispatcher_.NextDeadline(), absl::InfiniteFuture());
}

// Goal: requests with a common beginning go where it is, a salt's own only, until its process is lost.
TEST(DispatcherPrefixTest, GoesWhereThePrefixIs) {
  Dispatcher dispatcher({{.capacity = 1000}, {.capacity = 1000}},
                        {.prefixes = PrefixSpace{.model_fingerprint = 1, .block_tokens = 16}});
  using State = Membership::State;
  std::vector<Membership::Member> members(2, {.state = State::kAlive, .incarnation = Incarnation{1}});
  dispatcher.OnMembers(members, absl::UnixEpoch());
  uint64_t number = 0;
  const auto home = [&](int32_t first, const std::string& salt) {
    SequenceRequest request{
        .id = {100, ++number}, .prompt = std::vector<int32_t>(64, first), .cache_salt = salt};
    request.prompt.push_back(static_cast<int32_t>(number));
    request.sampling.max_tokens = 3;
    dispatcher.Submit(std::move(request), absl::UnixEpoch());
    const auto out = dispatcher.TakeOutgoing();
    return out.size() == 1 ? out[0].to : -1;
  };
  EXPECT_EQ(home(1, "a"), 0);
  EXPECT_EQ(home(1, "a"), 0);
  EXPECT_EQ(home(2, "a"), 1);
  EXPECT_EQ(home(2, "a"), 1);
  EXPECT_EQ(home(1, "a"), 0);
  EXPECT_EQ(home(1, "b"), 1) << "another tenant's prefix is nothing to go for: the one with less to do";
  members[0].incarnation = Incarnation{2};
  dispatcher.OnMembers(members, absl::UnixEpoch());
  for (const auto& out : dispatcher.TakeOutgoing()) EXPECT_TRUE(out.message.has_submit());
  EXPECT_EQ(dispatcher.counters().replayed, 3u);
}

// Goal: who reads a prefix elsewhere has it no more than before when its request has ended.
TEST(DispatcherPrefixTest, WhatWasReadElsewhereLiesThereStill) {
  Dispatcher dispatcher({{.capacity = 1000}, {.capacity = 1000}},
                        {.prefixes = PrefixSpace{.model_fingerprint = 1, .block_tokens = 16}});
  using State = Membership::State;
  const absl::Time now = absl::UnixEpoch();
  dispatcher.OnMembers(
      std::vector<Membership::Member>(2, {.state = State::kAlive, .incarnation = Incarnation{1}}), now);
  const auto hint = [&](uint64_t number, uint32_t home) -> std::optional<uint32_t> {
    SequenceRequest request{.id = {100, number}, .prompt = std::vector<int32_t>(64, 1)};
    request.prompt.push_back(static_cast<int32_t>(number));
    request.sampling.max_tokens = 3;
    dispatcher.Submit(std::move(request), now, InstanceId{home});
    const auto out = dispatcher.TakeOutgoing();
    messages::TokenBatch batch;
    ToMessage(SequenceOutput{.id = {100, number}, .finished = true, .finish_reason = "stop"},
              batch.add_events());
    dispatcher.OnTokens(static_cast<int>(home), 1, batch, now);
    if (out.size() != 1 || !out[0].message.submit().has_prefix()) return std::nullopt;
    return out[0].message.submit().prefix().instance();
  };
  EXPECT_EQ(hint(1, 0), std::nullopt);
  EXPECT_EQ(hint(2, 1), 0u);
  EXPECT_EQ(hint(3, 1), 0u);
  EXPECT_EQ(hint(4, 0), std::nullopt);
}

}  // namespace
}  // namespace lombard
