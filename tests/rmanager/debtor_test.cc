// The debtor's side of fabric/messages/protocol.h: one RManager, its creditors' answers written by hand.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "rmanager/rmanager.h"
#include "rmanager/wire.h"

namespace lombard {
namespace {

using messages::ControlMessage;
using testing::IsEmpty;
using testing::SizeIs;

constexpr InstanceId kSelf{1};
constexpr RequestId kRequest{100, 1};

class DebtorTest : public testing::Test {
 protected:
  DebtorTest() { PublishLendable({10, 0, 30, 20}); }

  static RManagerOptions Options() {
    return {.self = kSelf,
            .instances = 4,
            .reply_deadline = absl::Seconds(10),
            .retry = absl::Seconds(1),
            .backoff = absl::Milliseconds(20)};
  }

  void PublishLendable(const std::vector<uint32_t>& lendable, std::optional<RequestId> claim = {},
                       std::optional<RequestId> oldest = {}) {
    ControlMessage message;
    message.set_incarnation(1);
    messages::ClusterView& view = *message.mutable_cluster_view();
    view.set_epoch(++epoch_);
    for (uint32_t i = 0; i < lendable.size(); ++i) {
      messages::InstanceFacts& facts = *view.add_instances();
      facts.set_instance(i);
      facts.mutable_blocks()->set_total(100);
      facts.mutable_blocks()->set_lendable(lendable[i]);
      facts.mutable_blocks()->set_lendable_max(80);
    }
    if (claim.has_value()) ToWire(*claim, view.mutable_claim()->mutable_request());
    if (oldest.has_value()) ToWire(*oldest, view.mutable_oldest());
    manager_.Handle(0, message, now_);
  }

  std::vector<Outgoing> Sent() {
    std::vector<Outgoing> sent = manager_.TakeOutgoing();
    std::erase_if(sent, [](const Outgoing& out) { return out.message.has_heartbeat(); });
    EXPECT_TRUE(manager_.CheckInvariants().ok()) << manager_.CheckInvariants();
    return sent;
  }
  // (creditor, blocks) of each TryMoveKv sent.
  std::vector<std::pair<int, uint32_t>> Asked() {
    std::vector<std::pair<int, uint32_t>> asked;
    for (const Outgoing& out : Sent()) {
      EXPECT_TRUE(out.message.has_try_move_kv()) << out.message.ShortDebugString();
      asked.emplace_back(out.to, out.message.try_move_kv().blocks());
    }
    return asked;
  }
  void Grant(int creditor, uint64_t ticket, uint64_t counter, uint32_t blocks) {
    ControlMessage message;
    message.set_incarnation(1);
    messages::TryMoveKvReply& reply = *message.mutable_try_move_kv_reply();
    reply.set_ticket(ticket);
    reply.mutable_loan()->set_id(Value(MakeLoanId(InstanceId(creditor), counter)));
    reply.mutable_loan()->set_epoch(9);
    reply.set_blocks(blocks);
    manager_.Handle(creditor, message, now_);
  }
  void Refuse(int creditor, uint64_t ticket, uint32_t lendable) {
    ControlMessage message;
    message.set_incarnation(1);
    message.mutable_try_move_kv_reply()->set_ticket(ticket);
    message.mutable_try_move_kv_reply()->set_lendable(lendable);
    manager_.Handle(creditor, message, now_);
  }
  void Confirm(int creditor, uint64_t counter, bool active = true) {
    ControlMessage message;
    message.set_incarnation(1);
    message.mutable_activate_loan_reply()->mutable_loan()->set_id(
        Value(MakeLoanId(InstanceId(creditor), counter)));
    message.mutable_activate_loan_reply()->mutable_loan()->set_epoch(9);
    message.mutable_activate_loan_reply()->set_active(active);
    manager_.Handle(creditor, message, now_);
  }
  // Borrowed over creditors 2 (30 blocks, loan 1) and 3 (10 blocks, loan 1).
  std::vector<Loan> BorrowForty() {
    const uint64_t ticket = manager_.Borrow(kRequest, 40, Purpose::kAdmission, now_);
    EXPECT_THAT(Asked(), testing::ElementsAre(std::pair(2, 30u), std::pair(3, 10u)));
    Grant(2, ticket, 1, 30);
    EXPECT_THAT(Sent(), IsEmpty()) << "nothing is activated before all have answered";
    Grant(3, ticket, 1, 10);
    EXPECT_THAT(Sent(), SizeIs(2));
    Confirm(3, 1);
    EXPECT_THAT(manager_.TakeEvents(), IsEmpty()) << "not usable before all are confirmed";
    Confirm(2, 1);
    const std::vector<RManager::Event> events = manager_.TakeEvents();
    if (events.size() != 1 || !std::holds_alternative<Borrowed>(events[0])) {
      ADD_FAILURE() << "not borrowed";
      return {};
    }
    EXPECT_EQ(std::get<Borrowed>(events[0]).ticket, ticket);
    return std::get<Borrowed>(events[0]).loans;
  }
  BorrowRefused TakeRefusal() {
    const std::vector<RManager::Event> events = manager_.TakeEvents();
    if (events.size() != 1 || !std::holds_alternative<BorrowRefused>(events[0])) {
      ADD_FAILURE() << events.size() << " events, or no refusal";
      return {};
    }
    return std::get<BorrowRefused>(events[0]);
  }

  KvPool pool_{100};
  absl::Time now_ = absl::UnixEpoch();
  uint64_t epoch_ = 0;
  RManager manager_{Options(), &pool_};
};

TEST_F(DebtorTest, BorrowsFromTheRoomiestCreditorsAllOrNothing) {
  const std::vector<Loan> loans = BorrowForty();
  ASSERT_THAT(loans, SizeIs(2));
  EXPECT_EQ(loans[0].creditor, InstanceId{2});
  EXPECT_EQ(loans[0].blocks, 30);
  EXPECT_EQ(loans[0].debtor, kSelf);
  EXPECT_EQ(loans[1].creditor, InstanceId{3});
  EXPECT_EQ(manager_.counters().borrowed, 40);
  manager_.RepayAll(kRequest, now_);
  EXPECT_THAT(Sent(), SizeIs(2));
  EXPECT_EQ(manager_.counters().borrowed, 0);
  EXPECT_EQ(manager_.counters().borrowed_max, 40);
}

TEST_F(DebtorTest, ARequestBeyondWhatTheViewShowsIsRefusedWithoutAMessage) {
  const uint64_t ticket = manager_.Borrow(kRequest, 61, Purpose::kAdmission, now_);
  EXPECT_THAT(Sent(), IsEmpty());
  const BorrowRefused refused = TakeRefusal();
  EXPECT_EQ(refused.ticket, ticket);
  EXPECT_EQ(refused.blocks_wanted, 61);
  EXPECT_EQ(refused.cluster_free, 60);
  EXPECT_GT(refused.retry_after, now_);
}

TEST_F(DebtorTest, OneRefusalGivesEverythingBack) {
  const uint64_t ticket = manager_.Borrow(kRequest, 60, Purpose::kAdmission, now_);
  EXPECT_THAT(Asked(), SizeIs(3));
  Grant(2, ticket, 1, 30);
  Refuse(3, ticket, 5);
  std::vector<Outgoing> sent = Sent();
  ASSERT_THAT(sent, SizeIs(1));
  EXPECT_EQ(sent[0].to, 2);
  EXPECT_TRUE(sent[0].message.has_repay());
  EXPECT_EQ(TakeRefusal().cluster_free, 10 + 0 + 5) << "answers correct the view";
  Grant(0, ticket, 1, 10);  // late
  sent = Sent();
  ASSERT_THAT(sent, SizeIs(1));
  EXPECT_EQ(sent[0].to, 0);
  EXPECT_TRUE(sent[0].message.has_repay());
  EXPECT_THAT(manager_.TakeEvents(), IsEmpty());
}

// Found by the simulation: a refusal of the moment must not be remembered when the cluster's state does not
// change any more.
TEST_F(DebtorTest, TheNextViewReplacesWhatAReplyToldEvenWhenItIsTheSame) {
  const uint64_t ticket = manager_.Borrow(kRequest, 60, Purpose::kAdmission, now_);
  Refuse(2, ticket, 0);
  EXPECT_EQ(TakeRefusal().cluster_free, 30);
  --epoch_;
  PublishLendable({10, 0, 30, 20});
  EXPECT_EQ(manager_.view().instances[2].lendable, 30);
}

TEST_F(DebtorTest, ACopyOfAGrantInUseChangesNothing) {
  const uint64_t ticket = BorrowForty().empty() ? 0 : 1;
  Grant(2, ticket, 1, 30);
  EXPECT_THAT(Sent(), IsEmpty());
  EXPECT_THAT(manager_.TakeEvents(), IsEmpty());
  Confirm(2, 1, false);
  EXPECT_THAT(manager_.TakeEvents(), IsEmpty());
  EXPECT_EQ(manager_.counters().borrowed, 40);
}

TEST_F(DebtorTest, SilenceIsAskedAgainThenGivenUp) {
  const uint64_t ticket = manager_.Borrow(kRequest, 40, Purpose::kAdmission, now_);
  EXPECT_THAT(Asked(), SizeIs(2));
  Grant(2, ticket, 1, 30);
  EXPECT_LE(manager_.NextDeadline(), now_ + absl::Seconds(1));
  now_ += absl::Seconds(1);
  manager_.Tick(now_);
  EXPECT_THAT(Asked(), testing::ElementsAre(std::pair(3, 10u)));
  now_ += absl::Seconds(9);
  manager_.Tick(now_);
  EXPECT_EQ(TakeRefusal().ticket, ticket);
  const std::vector<Outgoing> sent = Sent();
  ASSERT_THAT(sent, SizeIs(1));
  EXPECT_TRUE(sent[0].message.has_repay());
}

TEST_F(DebtorTest, ALeaseThatRanOutBeforeActivationIsARefusal) {
  const uint64_t ticket = manager_.Borrow(kRequest, 40, Purpose::kAdmission, now_);
  Grant(2, ticket, 1, 30);
  Grant(3, ticket, 1, 10);
  Sent();
  Confirm(2, 1);
  Confirm(3, 1, false);
  EXPECT_EQ(TakeRefusal().ticket, ticket);
  EXPECT_THAT(Sent(), SizeIs(2)) << "both are repaid";
  EXPECT_EQ(manager_.counters().borrowed, 0);
}

TEST_F(DebtorTest, ARepaymentIsRepeatedUntilAcknowledged) {
  const std::vector<Loan> loans = BorrowForty();
  manager_.Repay(loans[0].id, now_);
  EXPECT_THAT(Sent(), SizeIs(1));
  now_ += absl::Seconds(1);
  manager_.Tick(now_);
  EXPECT_THAT(Sent(), SizeIs(1));
  ControlMessage ack;
  ack.set_incarnation(1);
  ToWire(loans[0], ack.mutable_repay_ack()->mutable_loan());
  manager_.Handle(3, ack, now_);  // not the creditor
  manager_.Handle(2, ack, now_);
  now_ += absl::Seconds(5);
  manager_.Tick(now_);
  EXPECT_THAT(Sent(), IsEmpty());
}

TEST_F(DebtorTest, CancelWithdrawsWithoutAnEvent) {
  const uint64_t ticket = manager_.Borrow(kRequest, 40, Purpose::kAdmission, now_);
  Grant(2, ticket, 1, 30);
  Sent();
  manager_.CancelBorrow(ticket, now_);
  EXPECT_THAT(Sent(), SizeIs(1));
  Grant(3, ticket, 1, 10);
  EXPECT_THAT(Sent(), SizeIs(1));
  EXPECT_THAT(manager_.TakeEvents(), IsEmpty());
}

// Found by the simulation: the engine may end a request between the decision and its event.
TEST_F(DebtorTest, NoEventFollowsForARequestThatWasEndedBeforeTheEventWasTaken) {
  manager_.Borrow(kRequest, 99, Purpose::kAdmission, now_);  // refused at once
  manager_.RepayAll(kRequest, now_);
  EXPECT_THAT(manager_.TakeEvents(), IsEmpty());
  for (const bool cancel : {false, true}) {
    const uint64_t ticket = manager_.Borrow(kRequest, 30, Purpose::kAdmission, now_);
    Grant(2, ticket, ticket, 30);
    Confirm(2, ticket);
    EXPECT_EQ(manager_.counters().borrowed, 30);
    Sent();
    cancel ? manager_.CancelBorrow(ticket, now_) : manager_.RepayAll(kRequest, now_);
    EXPECT_THAT(manager_.TakeEvents(), IsEmpty());
    EXPECT_THAT(Sent(), SizeIs(1));
    EXPECT_EQ(manager_.counters().borrowed, 0);
    PublishLendable({10, 0, 30, 20});
  }
}

TEST_F(DebtorTest, TwoBorrowingsAtOnceDoNotCountTheSameRoom) {
  manager_.Borrow(kRequest, 30, Purpose::kAdmission, now_);
  manager_.Borrow({100, 2}, 30, Purpose::kAdmission, now_);
  EXPECT_THAT(Asked(), testing::ElementsAre(std::pair(2, 30u), std::pair(3, 20u), std::pair(0, 10u)));
}

TEST_F(DebtorTest, GrowthPrefersCreditorsThatHoldThePartAlready) {
  BorrowForty();
  PublishLendable({10, 0, 5, 2});
  manager_.Borrow(kRequest, 2, Purpose::kGrowth, now_);
  EXPECT_THAT(Asked(), testing::ElementsAre(std::pair(2, 2u)));
  manager_.Borrow({100, 2}, 2, Purpose::kGrowth, now_);
  EXPECT_THAT(Asked(), testing::ElementsAre(std::pair(0, 2u)));
}

TEST_F(DebtorTest, BackOffGrowsWithCollisionsAndSpreadsCompetitorsTheSameWayEveryTime) {
  std::optional<RequestId> claim;
  const auto wait = [&](RequestId request, uint32_t blocks) {
    PublishLendable({10, 0, 30, 20}, claim);
    const uint64_t ticket = manager_.Borrow(request, blocks, Purpose::kAdmission, now_);
    if (blocks <= 30) Refuse(2, ticket, 0);
    return TakeRefusal().retry_after - now_;
  };
  std::vector<absl::Duration> waits;
  for (int i = 0; i < 8; ++i) {
    waits.push_back(wait(kRequest, 30));
    const absl::Duration base = absl::Milliseconds(20) * (1 << std::min(i, 4));
    EXPECT_GE(waits[i], base / 2);
    EXPECT_LE(waits[i], base * 3 / 2);
    manager_.RepayAll(kRequest, now_);  // an engine does so after a refused admission: not forgotten
    EXPECT_LE(wait(kRequest, 99), absl::Milliseconds(30)) << "ruled out by the view: no collision";
  }
  EXPECT_NE(wait({100, 2}, 30), wait({100, 3}, 30));
  RManager twin(Options(), &pool_);
  twin.Borrow(kRequest, 1, Purpose::kAdmission, now_);  // knows no view
  EXPECT_EQ(std::get<BorrowRefused>(twin.TakeEvents().at(0)).retry_after - now_, waits[0]) << "deterministic";
  claim = RequestId{100, 7};
  for (int i = 0; i < 8; ++i) {
    EXPECT_LE(wait({100, 7}, 30), absl::Milliseconds(30)) << "the claim does not back off further";
  }
}

TEST_F(DebtorTest, AYoungerRequestDoesNotAskWhileAnOlderOneHasTheClaim) {
  PublishLendable({10, 0, 30, 20}, RequestId{50, 1});
  manager_.Borrow(kRequest, 1, Purpose::kAdmission, now_);
  EXPECT_THAT(Sent(), IsEmpty());
  TakeRefusal();
  manager_.Borrow(kRequest, 1, Purpose::kGrowth, now_);
  EXPECT_THAT(Asked(), SizeIs(1));
}

TEST_F(DebtorTest, ShortRequestsFlowPastAClaimWithinTheHomesShareOfItsSpare) {
  EXPECT_TRUE(manager_.MayAdmitLocally(kRequest, 1000, 1000)) << "no claim";
  ControlMessage message;
  message.set_incarnation(1);
  messages::ClusterView& view = *message.mutable_cluster_view();
  view.set_epoch(++epoch_);
  ToWire({50, 1}, view.mutable_claim()->mutable_request());
  view.mutable_claim()->set_spare(81);
  manager_.Handle(0, message, now_);
  EXPECT_FALSE(manager_.MayAdmit(kRequest));
  EXPECT_TRUE(manager_.MayAdmitLocally(kRequest, 5, 15)) << "a quarter of 81, this home's share of all pools";
  EXPECT_FALSE(manager_.MayAdmitLocally(kRequest, 6, 15));
  EXPECT_TRUE(manager_.MayAdmitLocally({50, 1}, 90, 0)) << "the one with the claim";
}

TEST_F(DebtorTest, TheOldestRequestIsKnown) {
  PublishLendable({}, {}, RequestId{50, 1});
  EXPECT_TRUE(manager_.IsOldest({50, 1}));
  EXPECT_FALSE(manager_.IsOldest({50, 2}));
  manager_.SetLoad({.oldest = RequestId{40, 1}});
  EXPECT_FALSE(manager_.IsOldest({50, 1}));
}

TEST_F(DebtorTest, CapacityIsTheOwnPoolAndWhatOthersWouldLend) {
  EXPECT_EQ(manager_.view().CapacityFor(kSelf), 100 + 3 * 80);
  EXPECT_TRUE(manager_.view().complete());
}

TEST_F(DebtorTest, AnUnreachableCreditorsLoansAreLostAndItsBorrowingsFail) {
  BorrowForty();
  PublishLendable({10, 0, 30, 20});
  manager_.Borrow({100, 2}, 50, Purpose::kAdmission, now_);
  Sent();
  manager_.PeerUnreachable(2, now_);
  const std::vector<RManager::Event> events = manager_.TakeEvents();
  ASSERT_THAT(events, SizeIs(2));
  EXPECT_EQ(std::get<BorrowRefused>(events[0]).request, (RequestId{100, 2}));
  EXPECT_EQ(std::get<LoanLost>(events[1]).loan.creditor, InstanceId{2});
  EXPECT_EQ(manager_.counters().borrowed, 10);
  // It may be alive: it is repaid until it answers.
  const auto repays = [&] {
    int count = 0;
    for (const Outgoing& out : Sent()) count += out.to == 2 && out.message.has_repay();
    return count;
  };
  EXPECT_EQ(repays(), 1);
  now_ += absl::Seconds(1);
  manager_.Tick(now_);
  EXPECT_EQ(repays(), 1);
}

TEST_F(DebtorTest, ALostCreditorIsNotRepaid) {
  BorrowForty();
  Sent();
  ControlMessage message;
  message.set_incarnation(1);
  messages::ClusterView& view = *message.mutable_cluster_view();
  view.set_epoch(1000);
  view.set_members_number(1);
  messages::Member& member = *view.add_members();
  member.set_instance(2);
  member.set_incarnation(1);
  member.set_state(messages::MEMBER_LOST);
  manager_.Handle(0, message, now_);
  const std::vector<RManager::Event> events = manager_.TakeEvents();
  ASSERT_THAT(events, SizeIs(1));
  const Loan loan = std::get<LoanLost>(events[0]).loan;
  EXPECT_EQ(loan.creditor, InstanceId{2});
  Sent();
  now_ += absl::Seconds(5);
  manager_.Tick(now_);
  for (const Outgoing& out : Sent()) EXPECT_FALSE(out.to == 2 && out.message.has_repay());
  manager_.LoanRefused(loan.id, now_);  // known to be lost already
  EXPECT_THAT(manager_.TakeEvents(), IsEmpty());
}

TEST_F(DebtorTest, ARefusedLoanIsLost) {
  BorrowForty();
  const Loan loan = manager_.borrowed().begin()->second;
  manager_.LoanRefused(loan.id, now_);
  const std::vector<RManager::Event> events = manager_.TakeEvents();
  ASSERT_THAT(events, SizeIs(1));
  EXPECT_EQ(std::get<LoanLost>(events[0]).loan.id, loan.id);
  EXPECT_EQ(manager_.counters().borrowed, 40 - loan.blocks);
}

TEST_F(DebtorTest, ARecallIsToldWithTheRightToDecline) {
  BorrowForty();
  Sent();
  const Loan loan = manager_.borrowed().begin()->second;
  const auto recall = [&](RequestId wanted_for) {
    ControlMessage message;
    message.set_incarnation(1);
    ToWire(loan, message.mutable_recall()->mutable_loan());
    message.mutable_recall()->set_deadline_us(5000000);
    ToWire(wanted_for, message.mutable_recall()->mutable_wanted_for());
    manager_.Handle(static_cast<int>(Value(loan.creditor)), message, now_);
    const std::vector<RManager::Event> events = manager_.TakeEvents();
    return events.size() == 1 ? std::get<RecallWanted>(events[0]) : RecallWanted{};
  };
  EXPECT_EQ(recall({kRequest.arrival_us - 1, 1}).loan.id, loan.id);
  EXPECT_EQ(recall({kRequest.arrival_us - 1, 1}).deadline, now_ + absl::Seconds(5));
  EXPECT_FALSE(recall({kRequest.arrival_us - 1, 1}).may_decline);
  EXPECT_TRUE(recall({kRequest.arrival_us + 1, 1}).may_decline);
  manager_.DeclineRecall(loan.id);
  const std::vector<Outgoing> sent = Sent();
  ASSERT_THAT(sent, SizeIs(1));
  EXPECT_EQ(sent[0].message.recall_declined().loan().id(), Value(loan.id));
  manager_.Repay(loan.id, now_);
  EXPECT_EQ(recall({1, 1}).loan.id, LoanId{}) << "not in use any more";
}

TEST_F(DebtorTest, HostileAnswersDoNoHarm) {
  const uint64_t ticket = manager_.Borrow(kRequest, 40, Purpose::kAdmission, now_);
  Sent();
  Grant(0, ticket, 1, 30);  // not asked: goes back
  Grant(2, ticket, 1, 30);
  Grant(3, ticket, 1, 9);  // not what was asked: everything goes back
  TakeRefusal();
  for (const Outgoing& out : Sent()) EXPECT_TRUE(out.message.has_repay());
  EXPECT_EQ(manager_.counters().borrowed, 0);
}

class MoveTest : public DebtorTest {
 protected:
  void Advise(uint64_t plan_id, uint32_t to) {
    ControlMessage message;
    message.set_incarnation(1);
    message.mutable_move_kv()->set_plan_id(plan_id);
    ToWire(kRequest, message.mutable_move_kv()->mutable_request());
    message.mutable_move_kv()->set_blocks(8);
    message.mutable_move_kv()->set_to(to);
    manager_.Handle(0, message, now_);
  }
  void ExpectDone(uint64_t plan_id, uint32_t moved) {
    const std::vector<Outgoing> sent = Sent();
    ASSERT_THAT(sent, SizeIs(1));
    EXPECT_EQ(sent[0].to, 0);
    EXPECT_EQ(sent[0].message.move_kv_done().plan_id(), plan_id);
    EXPECT_EQ(sent[0].message.move_kv_done().moved(), moved);
  }
};

TEST_F(MoveTest, AMoveBorrowsAtTheDestinationAndIsReported) {
  Advise(5, 3);
  const std::vector<RManager::Event> events = manager_.TakeEvents();
  ASSERT_THAT(events, SizeIs(1));
  EXPECT_EQ(std::get<MoveWanted>(events[0]).blocks, 8);
  const std::optional<uint64_t> ticket = manager_.StartMove(5, now_);
  ASSERT_TRUE(ticket.has_value());
  EXPECT_FALSE(manager_.StartMove(5, now_).has_value());
  EXPECT_THAT(Asked(), testing::ElementsAre(std::pair(3, 8u)));
  Grant(3, *ticket, 1, 8);
  Confirm(3, 1);
  EXPECT_THAT(manager_.TakeEvents(), SizeIs(1));
  Sent();
  manager_.FinishMove(5, 8);
  ExpectDone(5, 8);
}

TEST_F(MoveTest, ARefusedDestinationEndsTheMove) {
  Advise(5, 3);
  manager_.TakeEvents();
  const uint64_t ticket = *manager_.StartMove(5, now_);
  Sent();
  Refuse(3, ticket, 0);
  TakeRefusal();
  ExpectDone(5, 0);
  EXPECT_FALSE(manager_.StartMove(5, now_).has_value());
}

TEST_F(MoveTest, ImpossibleRepeatedAndOvertakenAdviceIsNotFollowed) {
  Advise(5, 3);
  Advise(5, 3);
  Advise(4, 3);
  EXPECT_THAT(manager_.TakeEvents(), SizeIs(1));
  EXPECT_THAT(Sent(), IsEmpty());
  Advise(6, 2);  // the request moves already
  ExpectDone(6, 0);
  manager_.RefuseMove(5);
  ExpectDone(5, 0);
  Advise(7, 1);  // to itself
  ExpectDone(7, 0);
  Advise(8, 4);  // no such instance
  ExpectDone(8, 0);
  EXPECT_THAT(manager_.TakeEvents(), IsEmpty());
}

TEST_F(MoveTest, TheEndOfTheRequestEndsItsMove) {
  Advise(5, 3);
  manager_.TakeEvents();
  manager_.RepayAll(kRequest, now_);
  ExpectDone(5, 0);
}

class HeartbeatTest : public DebtorTest {
 protected:
  std::vector<messages::Heartbeat> Beats() {
    std::vector<messages::Heartbeat> beats;
    for (const Outgoing& out : manager_.TakeOutgoing()) {
      EXPECT_EQ(out.to, 0);
      if (out.message.has_heartbeat()) beats.push_back(out.message.heartbeat());
    }
    return beats;
  }
  messages::Heartbeat Beat() {
    now_ += absl::Milliseconds(50);
    manager_.Tick(now_);
    const std::vector<messages::Heartbeat> beats = Beats();
    EXPECT_THAT(beats, SizeIs(1));
    return beats.empty() ? messages::Heartbeat() : beats[0];
  }
};

TEST_F(HeartbeatTest, TheFirstIsFullThenOnlyChangesFollow) {
  manager_.SetLoad({.batch = 2, .waiting = 1, .long_requests = {{kRequest, 50, 40}, {{100, 2}, 30, 60}}});
  messages::Heartbeat beat = Beat();
  EXPECT_EQ(beat.seq(), 1);
  EXPECT_TRUE(beat.full());
  EXPECT_EQ(beat.batch(), 2);
  EXPECT_EQ(beat.blocks().total(), 100);
  EXPECT_EQ(beat.blocks().lendable(), 80);
  EXPECT_THAT(beat.placements(), SizeIs(2));
  EXPECT_EQ(beat.placements(1).movable(), 30) << "never more than there are";
  beat = Beat();
  EXPECT_EQ(beat.seq(), 2);
  EXPECT_FALSE(beat.full());
  EXPECT_THAT(beat.placements(), IsEmpty());
  manager_.SetLoad({.long_requests = {{kRequest, 51, 40}}});
  beat = Beat();
  ASSERT_THAT(beat.placements(), SizeIs(2));
  EXPECT_EQ(beat.placements(0).blocks(), 51);
  EXPECT_EQ(beat.placements(1).blocks(), 0) << "gone";
}

TEST_F(HeartbeatTest, OfHotPrefixesOnlyChangesFollowToo) {
  manager_.SetLoad({.prefixes = {{7, {.blocks = 9, .readers = 2, .rows = 100, .here = true}},
                                 {8, {.blocks = 3, .readers = 1, .rows = 5}}}});
  messages::Heartbeat beat = Beat();
  ASSERT_THAT(beat.prefixes(), SizeIs(2));
  EXPECT_EQ(beat.prefixes(0).name(), 7);
  EXPECT_EQ(beat.prefixes(0).blocks(), 9);
  EXPECT_EQ(beat.prefixes(0).readers(), 2);
  EXPECT_EQ(beat.prefixes(0).rows(), 100);
  EXPECT_TRUE(beat.prefixes(0).here());
  EXPECT_FALSE(beat.prefixes(1).here());
  EXPECT_THAT(Beat().prefixes(), IsEmpty());
  manager_.SetLoad({.prefixes = {{7, {.blocks = 9, .readers = 2, .rows = 101, .here = true}}}});
  beat = Beat();
  ASSERT_THAT(beat.prefixes(), SizeIs(2));
  EXPECT_EQ(beat.prefixes(0).rows(), 101);
  EXPECT_EQ(beat.prefixes(1).name(), 8);
  EXPECT_EQ(beat.prefixes(1).blocks(), 0) << "gone";
  manager_.SetLoad({});
  EXPECT_THAT(Beat().prefixes(), SizeIs(1));
}

TEST_F(HeartbeatTest, BorrowedBlocksAreReportedAndAFullDumpComesWhenAsked) {
  Beat();
  BorrowForty();
  messages::Heartbeat beat = Beat();
  EXPECT_THAT(beat.placements(), SizeIs(2));
  EXPECT_EQ(beat.blocks().borrowed(), 40);
  ControlMessage ack;
  ack.set_incarnation(1);
  ack.mutable_heartbeat_ack()->set_need_full(true);
  manager_.Handle(0, ack, now_);
  beat = Beat();
  EXPECT_TRUE(beat.full());
  EXPECT_THAT(beat.placements(), SizeIs(2));
}

TEST_F(HeartbeatTest, ABlockedRequestIsToldSoonWithItsWaitingTime) {
  Beat();
  const absl::Time since = now_;
  manager_.SetLoad({.oldest_blocked = Load::Blocked{kRequest, 12, since}, .oldest = kRequest});
  now_ += absl::Microseconds(12500);
  EXPECT_LE(manager_.NextDeadline(), now_);
  manager_.Tick(now_);
  const std::vector<messages::Heartbeat> beats = Beats();
  ASSERT_THAT(beats, SizeIs(1));
  EXPECT_EQ(beats[0].blocked().waited_us(), 12500);
  EXPECT_EQ(beats[0].blocked().blocks(), 12);
  EXPECT_EQ(beats[0].oldest().number(), 1);
}

}  // namespace
}  // namespace lombard
