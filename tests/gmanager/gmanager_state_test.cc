// The global manager's state machine: heartbeats, view, claim, silence, advice. Workers' messages are written
// by hand.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "gmanager/gmanager.h"

namespace lombard {
namespace {

using messages::ControlMessage;
using testing::IsEmpty;
using testing::SizeIs;

class GManagerTest : public testing::Test {
 protected:
  static GManagerOptions Options() {
    return {.instances = 3,
            .incarnation = Incarnation{4},
            .plan = {.block_tokens = 20, .keep_local = 0, .moves_max = 4},
            .cost = {.layers = 40,
                     .wire = {.query_bytes = 1, .state_bytes = 1},
                     .kv_bytes = 2,
                     .profile = {.weights_seconds = 396e-6, .token_seconds = 12.8e-9}},
            .plan_period = absl::Milliseconds(200),
            .claim_after = absl::Milliseconds(250),
            .dead_after = absl::Seconds(5),
            .move_deadline = absl::Seconds(10)};
  }

  ControlMessage Beat(int instance, uint64_t seq, bool full = false) {
    ControlMessage message;
    message.set_incarnation(1);
    messages::Heartbeat& beat = *message.mutable_heartbeat();
    beat.set_instance(instance);
    beat.set_seq(seq);
    beat.set_full(full || seq == 1);
    beat.mutable_blocks()->set_total(2850);
    beat.mutable_blocks()->set_free(2850);
    beat.mutable_blocks()->set_lendable(2000);
    beat.mutable_blocks()->set_lendable_max(2000);
    return message;
  }
  static void AddPlacement(ControlMessage& message, uint64_t number, uint32_t host, uint32_t blocks) {
    messages::Placement& p = *message.mutable_heartbeat()->add_placements();
    p.mutable_request()->set_arrival_us(1);
    p.mutable_request()->set_number(number);
    p.set_host(host);
    p.set_blocks(blocks);
    p.set_movable(host == 0 ? blocks : 0);
  }
  static void SetBlocked(ControlMessage& message, uint64_t arrival, uint64_t number, uint64_t waited_us) {
    messages::BlockedRequest& blocked = *message.mutable_heartbeat()->mutable_blocked();
    blocked.mutable_request()->set_arrival_us(arrival);
    blocked.mutable_request()->set_number(number);
    blocked.set_blocks(3000);
    blocked.set_held(50);
    blocked.set_waited_us(waited_us);
  }
  std::vector<Outgoing> Send(int from, const ControlMessage& message) {
    manager_.Handle(from, message, now_);
    return manager_.TakeOutgoing();
  }
  messages::HeartbeatAck Ack(int from, const ControlMessage& message) {
    for (const Outgoing& out : Send(from, message)) {
      EXPECT_EQ(out.message.incarnation(), 4);
      if (out.message.has_heartbeat_ack() && out.to == from) return out.message.heartbeat_ack();
    }
    ADD_FAILURE() << "no ack";
    return {};
  }

  GManager manager_{Options()};
  absl::Time now_ = absl::UnixEpoch();
};

TEST_F(GManagerTest, EachHeartbeatIsAnsweredWithTheViewOfAll) {
  Ack(0, Beat(0, 1));
  ControlMessage beat = Beat(2, 1);
  beat.mutable_heartbeat()->set_batch(7);
  const messages::HeartbeatAck ack = Ack(2, beat);
  EXPECT_EQ(ack.seq(), 1);
  EXPECT_FALSE(ack.need_full());
  ASSERT_THAT(ack.view().instances(), SizeIs(2));
  EXPECT_EQ(ack.view().instances(1).instance(), 2);
  EXPECT_EQ(ack.view().instances(1).batch(), 7);
  EXPECT_EQ(ack.view().instances(1).blocks().lendable(), 2000);
  const uint64_t epoch = ack.view().epoch();
  beat.mutable_heartbeat()->set_seq(2);
  EXPECT_EQ(Ack(2, beat).view().epoch(), epoch) << "nothing changed";
  beat.mutable_heartbeat()->set_seq(3);
  beat.mutable_heartbeat()->set_batch(8);
  EXPECT_GT(Ack(2, beat).view().epoch(), epoch);
}

TEST_F(GManagerTest, ASharedPrefixIsNeverLongerThanWhatLiesThere) {
  ControlMessage beat = Beat(0, 1, true);
  for (uint64_t number : {1, 2}) {
    AddPlacement(beat, number, 0, 100);
    messages::Placement& p = *beat.mutable_heartbeat()->mutable_placements()->rbegin();
    p.set_movable(70), p.set_shared(number == 1 ? 30 : 31), p.set_readers(4);
  }
  manager_.Handle(0, beat, now_);
  const std::vector<Placement> placements = manager_.State().placements;
  ASSERT_THAT(placements, SizeIs(2));
  for (const Placement& p : placements) {
    EXPECT_EQ(p.home, InstanceId{0});
    EXPECT_EQ(p.movable, 70);
    EXPECT_EQ(p.shared, 30);
    EXPECT_EQ(p.readers, 4);
  }
}

TEST_F(GManagerTest, AGapInTheDeltasAsksForAFullDumpAndIgnoresPlacementsUntilThen) {
  ControlMessage beat = Beat(0, 1);
  AddPlacement(beat, 1, 0, 100);
  AddPlacement(beat, 2, 0, 200);
  Ack(0, beat);
  EXPECT_THAT(manager_.State().placements, SizeIs(2));
  beat = Beat(0, 2);
  AddPlacement(beat, 1, 0, 0);
  AddPlacement(beat, 2, 1, 50);
  EXPECT_FALSE(Ack(0, beat).need_full());
  ASSERT_THAT(manager_.State().placements, SizeIs(2));
  EXPECT_EQ(manager_.State().placements[1].host, InstanceId{1});
  beat = Beat(0, 4);
  AddPlacement(beat, 3, 0, 1);
  EXPECT_TRUE(Ack(0, beat).need_full());
  beat = Beat(0, 5);
  AddPlacement(beat, 4, 0, 1);
  EXPECT_TRUE(Ack(0, beat).need_full()) << "still";
  EXPECT_THAT(manager_.State().placements, SizeIs(2));
  beat = Beat(0, 6, true);
  AddPlacement(beat, 5, 0, 9);
  EXPECT_FALSE(Ack(0, beat).need_full());
  ASSERT_THAT(manager_.State().placements, SizeIs(1));
  EXPECT_EQ(manager_.State().placements[0].request.number, 5);
}

TEST_F(GManagerTest, CopiesAndEarlierProcessesAreStaleALaterOneStartsAnew) {
  ControlMessage beat = Beat(0, 2, true);
  AddPlacement(beat, 1, 0, 100);
  Ack(0, beat);
  EXPECT_THAT(Send(0, beat), IsEmpty());
  EXPECT_THAT(Send(0, Beat(0, 1)), IsEmpty());
  EXPECT_EQ(manager_.counters().stale, 2);
  ControlMessage restarted = Beat(0, 1);
  restarted.set_incarnation(2);
  Ack(0, restarted);
  EXPECT_THAT(manager_.State().placements, IsEmpty());
  const std::vector<Outgoing> answer = Send(0, Beat(0, 3));
  ASSERT_THAT(answer, SizeIs(1));
  EXPECT_EQ(answer[0].message.fenced().incarnation(), 2);
}

TEST_F(GManagerTest, TheOldestRequestBlockedLongEnoughGetsTheClaimAndEveryoneIsTold) {
  Ack(0, Beat(0, 1));
  ControlMessage young = Beat(1, 1), old = Beat(2, 1);
  SetBlocked(young, 200, 1, 240000);
  SetBlocked(old, 100, 9, 0);
  EXPECT_FALSE(Ack(1, young).view().has_claim());
  now_ += absl::Milliseconds(10);
  EXPECT_LE(manager_.NextDeadline(), now_);
  manager_.Tick(now_);
  std::vector<Outgoing> told = manager_.TakeOutgoing();
  ASSERT_THAT(told, SizeIs(2)) << "those heard of";
  EXPECT_EQ(told[1].message.cluster_view().claim().request().arrival_us(), 200);
  EXPECT_FALSE(told[1].message.cluster_view().claim().home() != 1);
  Ack(2, old);
  now_ += absl::Milliseconds(249);
  manager_.Tick(now_);
  EXPECT_THAT(manager_.claim()->request, (RequestId{200, 1}));
  now_ += absl::Milliseconds(1);
  manager_.Tick(now_);
  EXPECT_THAT(manager_.claim()->request, (RequestId{100, 9}));
  EXPECT_EQ(manager_.claim()->blocks, 3000);
  EXPECT_EQ(manager_.claim()->spare, 2850 + 2 * 2000 - 3050);
  manager_.TakeOutgoing();
  told = Send(2, Beat(2, 2));  // no longer blocked: back to the other one
  ASSERT_THAT(told, SizeIs(4));
  EXPECT_THAT(manager_.claim()->request, (RequestId{200, 1}));
  Send(1, Beat(1, 2));
  EXPECT_EQ(manager_.claim(), std::nullopt);
}

TEST_F(GManagerTest, TheOldestUnfinishedRequestOfTheClusterIsInTheView) {
  ControlMessage beat = Beat(0, 1);
  beat.mutable_heartbeat()->mutable_oldest()->set_arrival_us(7);
  Ack(0, beat);
  beat = Beat(1, 1);
  beat.mutable_heartbeat()->mutable_oldest()->set_arrival_us(5);
  EXPECT_EQ(Ack(1, beat).view().oldest().arrival_us(), 5);
  EXPECT_EQ(Ack(1, Beat(1, 2)).view().oldest().arrival_us(), 7);
  EXPECT_FALSE(Ack(0, Beat(0, 2)).view().has_oldest());
}

TEST_F(GManagerTest, WhoIsSilentIsLostEveryoneIsToldAndItsClaimEnds) {
  manager_.Tick(now_);
  Ack(0, Beat(0, 1));
  ControlMessage blocked = Beat(1, 1);
  SetBlocked(blocked, 100, 1, 1000000);
  AddPlacement(blocked, 1, 2, 5);
  Ack(1, blocked);
  ASSERT_TRUE(manager_.claim().has_value());
  for (int i = 0; i < 5; ++i) {
    now_ += absl::Seconds(1);
    manager_.Tick(now_);
    EXPECT_THAT(manager_.TakeOutgoing(), IsEmpty());
  }
  now_ += absl::Microseconds(1);
  manager_.Tick(now_);
  const std::vector<Outgoing> told = manager_.TakeOutgoing();  // rank 0 is the manager's own process
  ASSERT_THAT(told, SizeIs(testing::Ge(1)));
  EXPECT_EQ(told.back().to, 0);
  const messages::ClusterView& view = told.back().message.cluster_view();
  ASSERT_THAT(view.members(), SizeIs(2));
  EXPECT_EQ(view.members(0).state(), messages::MEMBER_ALIVE);
  EXPECT_EQ(view.members(1).state(), messages::MEMBER_LOST);
  EXPECT_EQ(view.members(1).incarnation(), 1);
  EXPECT_THAT(view.instances(), SizeIs(1));
  EXPECT_FALSE(view.has_claim());
  EXPECT_THAT(manager_.State().placements, IsEmpty());
}

TEST_F(GManagerTest, WhoWasLostComesBackAsANewIncarnationOnly) {
  Ack(1, Beat(1, 1));
  manager_.ConnectionLost(1, now_);
  manager_.TakeOutgoing();
  std::vector<Outgoing> answer = Send(1, Beat(1, 2));
  ASSERT_THAT(answer, SizeIs(1));
  EXPECT_EQ(answer[0].message.fenced().incarnation(), 1);
  ControlMessage again = Beat(1, 1);
  again.set_incarnation(2);
  const messages::HeartbeatAck ack = Ack(1, again);
  EXPECT_EQ(ack.view().members(0).state(), messages::MEMBER_ALIVE);
  EXPECT_EQ(ack.view().members(0).incarnation(), 2);
}

TEST_F(GManagerTest, TheBrokenConnectionOfTheProcessBeforeIsNotHeldAgainstWhoJoins) {
  Ack(1, Beat(1, 1));
  manager_.ConnectionLost(1, now_);
  const auto grant = manager_.Join(InstanceId{1}, 70, 2850, now_);
  ASSERT_TRUE(grant.ok()) << grant.status();
  manager_.ConnectionLost(1, now_);
  ControlMessage ping;
  ping.set_incarnation(Value(grant->incarnation));
  ping.mutable_ping()->set_process(70);
  for (const Outgoing& out : Send(1, ping)) EXPECT_FALSE(out.message.has_fenced());
  EXPECT_TRUE(manager_.membership().IsAlive(InstanceId{1}, grant->incarnation));
}

TEST_F(GManagerTest, ARestartedProcessThatTakesItsOldNumberIsFencedAndTheOldOneLost) {
  Ack(1, Beat(1, 1));
  ControlMessage restarted;
  restarted.set_incarnation(1);
  restarted.mutable_ping()->set_process(77);
  const std::vector<Outgoing> answer = Send(1, restarted);
  ASSERT_THAT(answer, SizeIs(1));
  EXPECT_EQ(answer[0].message.fenced().incarnation(), 1);
  EXPECT_EQ(manager_.membership().members()[1].state, Membership::State::kLost);
}

TEST(Membership, AGapBetweenTwoCallsIsNotHeldAgainstTheOthers) {
  Membership members({.instances = 2, .expected = 2, .dead_after = absl::Seconds(1), .kv_blocks = {}});
  absl::Time now = absl::UnixEpoch();
  members.Tick(now);
  members.Heard(InstanceId{1}, Incarnation{1}, 5, now);
  members.Tick(now += absl::Seconds(30));  // this process was stopped
  EXPECT_TRUE(members.IsAlive(InstanceId{1}, Incarnation{1}));
  members.Tick(now += absl::Milliseconds(400));
  members.Tick(now += absl::Milliseconds(400));
  EXPECT_TRUE(members.IsAlive(InstanceId{1}, Incarnation{1}));
  EXPECT_EQ(members.NextDeadline(), now + absl::Milliseconds(200) + absl::Microseconds(1));
  const uint64_t number = members.number();
  members.Tick(now += absl::Milliseconds(201));
  EXPECT_FALSE(members.IsAlive(InstanceId{1}, Incarnation{1}));
  EXPECT_GT(members.number(), number);
}

// The planner's worked example, as heartbeats: 40 K of one long request beside 17 short ones, an endless
// queue, an emptier peer.
class AdviceTest : public GManagerTest {
 protected:
  AdviceTest() {
    manager_.Tick(now_);
    ControlMessage debtor = Beat(0, 1);
    debtor.mutable_heartbeat()->mutable_blocks()->set_free(0);
    debtor.mutable_heartbeat()->mutable_blocks()->set_lendable(0);
    debtor.mutable_heartbeat()->set_batch(18);
    debtor.mutable_heartbeat()->set_waiting(1000);
    debtor.mutable_heartbeat()->set_waiting_tokens(1000000);
    debtor.mutable_heartbeat()->set_own_tokens(57000);
    AddPlacement(debtor, 1, 0, 2000);
    Ack(0, debtor);
    ControlMessage creditor = Beat(1, 1);
    creditor.mutable_heartbeat()->mutable_blocks()->set_free(1850);
    creditor.mutable_heartbeat()->mutable_blocks()->set_lendable(1850);
    creditor.mutable_heartbeat()->set_batch(20);
    creditor.mutable_heartbeat()->set_own_tokens(20000);
    Ack(1, creditor);
  }
  std::vector<Outgoing> TickAfter(absl::Duration d) {
    now_ += d;
    manager_.Tick(now_);
    return manager_.TakeOutgoing();
  }
};

TEST_F(AdviceTest, APlanBecomesOneMoveKvToTheHomeUntilItIsDone) {
  EXPECT_THAT(TickAfter(absl::Milliseconds(199)), IsEmpty());
  std::vector<Outgoing> advice = TickAfter(absl::Milliseconds(1));
  ASSERT_THAT(advice, SizeIs(1));
  EXPECT_EQ(advice[0].to, 0);
  const messages::MoveKv move = advice[0].message.move_kv();
  EXPECT_EQ(move.to(), 1);
  EXPECT_EQ(move.blocks(), 1850);
  EXPECT_EQ(move.request().number(), 1);
  EXPECT_THAT(TickAfter(absl::Milliseconds(200)), IsEmpty()) << "it is under way";
  ControlMessage done;
  done.set_incarnation(1);
  done.mutable_move_kv_done()->set_plan_id(move.plan_id());
  Send(1, done);  // not its home
  EXPECT_THAT(TickAfter(absl::Milliseconds(200)), IsEmpty());
  Send(0, done);
  EXPECT_EQ(manager_.counters().moves_refused, 1);
  advice = TickAfter(absl::Milliseconds(200));
  ASSERT_THAT(advice, SizeIs(1));
  EXPECT_GT(advice[0].message.move_kv().plan_id(), move.plan_id());
}

TEST_F(AdviceTest, AnUnansweredMoveIsForgottenAfterItsDeadline) {
  EXPECT_THAT(TickAfter(absl::Milliseconds(200)), SizeIs(1));
  EXPECT_THAT(TickAfter(absl::Seconds(9)), IsEmpty());
  TickAfter(absl::Seconds(1));
  EXPECT_EQ(manager_.counters().moves_sent, 2);
}

TEST_F(AdviceTest, NobodyIsAdvisedToMoveWhereItCannotReach) {
  ControlMessage debtor = Beat(0, 2);
  debtor.mutable_heartbeat()->mutable_blocks()->set_free(0);
  debtor.mutable_heartbeat()->mutable_blocks()->set_lendable(0);
  debtor.mutable_heartbeat()->set_batch(18);
  debtor.mutable_heartbeat()->set_waiting(1000);
  debtor.mutable_heartbeat()->set_waiting_tokens(1000000);
  debtor.mutable_heartbeat()->set_own_tokens(57000);
  debtor.mutable_heartbeat()->add_unreachable(1);
  Ack(0, debtor);
  EXPECT_THAT(TickAfter(absl::Milliseconds(200)), IsEmpty());
  debtor.mutable_heartbeat()->set_seq(3);
  debtor.mutable_heartbeat()->clear_unreachable();
  Ack(0, debtor);
  EXPECT_THAT(TickAfter(absl::Milliseconds(200)), SizeIs(1));
}

TEST_F(AdviceTest, NobodyIsAdvisedToMoveWhileAClaimStands) {
  ControlMessage blocked = Beat(2, 1);
  SetBlocked(blocked, 1, 1, 1000000);
  Send(2, blocked);
  EXPECT_THAT(TickAfter(absl::Milliseconds(200)), IsEmpty());
}

// 10 blocks of 20 keys: a copy is worth 200 rows.
class CopyAdviceTest : public GManagerTest {
 protected:
  CopyAdviceTest() { manager_.Tick(now_); }
  void Tell(int from, uint64_t seq, uint32_t blocks, uint32_t readers, uint64_t rows, bool here) {
    ControlMessage beat = Beat(from, seq);
    messages::HotPrefix& prefix = *beat.mutable_heartbeat()->add_prefixes();
    prefix.set_name(7), prefix.set_blocks(blocks), prefix.set_readers(readers), prefix.set_rows(rows);
    prefix.set_here(here);
    Send(from, beat);
  }
  std::vector<Outgoing> NextPlan() {
    now_ += absl::Milliseconds(200);
    manager_.Tick(now_);
    return manager_.TakeOutgoing();
  }
};

TEST_F(CopyAdviceTest, AHotPrefixIsToBeCopiedWhereItIsReadElsewhere) {
  Tell(0, 1, 10, 3, 390, true);
  Tell(1, 1, 10, 1, 9, false);
  EXPECT_THAT(NextPlan(), IsEmpty()) << "399 of 400 rows";
  Tell(1, 2, 10, 1, 10, false);
  std::vector<Outgoing> advice = NextPlan();
  ASSERT_THAT(advice, SizeIs(1));
  EXPECT_EQ(advice[0].to, 1);
  EXPECT_EQ(advice[0].message.copy_prefix().name(), 7);
  Tell(1, 3, 10, 1, 1000, false);
  EXPECT_THAT(NextPlan(), IsEmpty()) << "it is under way";
  Tell(2, 1, 10, 2, 0, false);
  advice = NextPlan();
  ASSERT_THAT(advice, SizeIs(1)) << "1390 rows would do for four that have it";
  EXPECT_EQ(advice[0].to, 2);
  EXPECT_EQ(manager_.counters().copies_advised, 2);
}

TEST_F(CopyAdviceTest, OneThatIsReadNoMoreIsForgotten) {
  Tell(0, 1, 10, 3, 1000, true);
  Tell(1, 1, 10, 1, 10, false);
  Tell(1, 2, 0, 0, 0, false);
  EXPECT_THAT(NextPlan(), IsEmpty());
}

TEST_F(CopyAdviceTest, NobodyIsAdvisedToCopyWhileAClaimStands) {
  Tell(0, 1, 10, 3, 1000, true);
  Tell(1, 1, 10, 1, 10, false);
  ControlMessage blocked = Beat(2, 1);
  SetBlocked(blocked, 1, 1, 1000000);
  Send(2, blocked);
  EXPECT_THAT(NextPlan(), IsEmpty());
}

TEST_F(GManagerTest, MalformedMessagesAreCountedAndDropped) {
  EXPECT_THAT(Send(-1, Beat(0, 1)), IsEmpty());
  EXPECT_THAT(Send(3, Beat(3, 1)), IsEmpty());
  EXPECT_THAT(Send(1, Beat(0, 1)), IsEmpty()) << "speaks for another";
  ControlMessage message;
  message.set_incarnation(1);
  message.mutable_repay();
  EXPECT_THAT(Send(0, message), IsEmpty());
  message = Beat(0, 1);
  message.set_incarnation(0);
  EXPECT_THAT(Send(0, message), IsEmpty());
  EXPECT_EQ(manager_.counters().malformed, 5);
  message = Beat(0, 1);
  AddPlacement(message, 1, 99, 5);
  Ack(0, message);
  EXPECT_EQ(manager_.counters().malformed, 6);
}

}  // namespace
}  // namespace lombard
