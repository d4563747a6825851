// Each row of the state table of fabric/messages/protocol.h, from the creditor's side: one RManager, its
// peer's messages written by hand.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "rmanager/rmanager.h"
#include "rmanager/wire.h"

namespace lombard {
namespace {

using messages::ControlMessage;

constexpr int kDebtor = 1, kGManager = 0;
constexpr RequestId kRequest{100, 1};
const absl::Time kStart = absl::UnixEpoch();

class CreditorTest : public testing::Test {
 protected:
  static RManagerOptions Options() {
    return {.self = InstanceId{2},
            .instances = 3,
            .incarnation = Incarnation{5},
            .reserve = 0.1,
            .lent_max = 0.8,
            .lease = absl::Seconds(30)};
  }

  // What the creditor sends in return, heartbeats apart.
  std::vector<Outgoing> Answers(int from, const ControlMessage& message) {
    manager_.Handle(from, message, now_);
    return Drain();
  }
  std::vector<Outgoing> Drain() {
    std::vector<Outgoing> answers = manager_.TakeOutgoing();
    std::erase_if(answers, [](const Outgoing& out) { return out.message.has_heartbeat(); });
    EXPECT_TRUE(manager_.CheckInvariants().ok()) << manager_.CheckInvariants();
    return answers;
  }
  static ControlMessage From(uint64_t incarnation = 1) {
    ControlMessage message;
    message.set_incarnation(incarnation);
    return message;
  }
  messages::TryMoveKvReply Try(uint64_t ticket, uint32_t blocks,
                               messages::Purpose purpose = messages::PURPOSE_ADMISSION,
                               RequestId request = kRequest) {
    ControlMessage message = From();
    message.mutable_try_move_kv()->set_ticket(ticket);
    message.mutable_try_move_kv()->set_blocks(blocks);
    message.mutable_try_move_kv()->set_purpose(purpose);
    ToWire(request, message.mutable_try_move_kv()->mutable_request());
    const std::vector<Outgoing> answers = Answers(kDebtor, message);
    if (answers.size() != 1 || answers[0].to != kDebtor || !answers[0].message.has_try_move_kv_reply()) {
      ADD_FAILURE() << "no reply to TryMoveKv";
      return {};
    }
    return answers[0].message.try_move_kv_reply();
  }
  bool Activate(const messages::LoanKey& loan, int from = kDebtor) {
    ControlMessage message = From();
    *message.mutable_activate_loan()->mutable_loan() = loan;
    const std::vector<Outgoing> answers = Answers(from, message);
    EXPECT_EQ(answers.size(), 1);
    return !answers.empty() && answers[0].message.activate_loan_reply().active();
  }
  bool Repay(const messages::LoanKey& loan, int from = kDebtor) {
    ControlMessage message = From();
    *message.mutable_repay()->mutable_loan() = loan;
    const std::vector<Outgoing> answers = Answers(from, message);
    return answers.size() == 1 && answers[0].message.repay_ack().loan().id() == loan.id();
  }
  void PublishLost(uint32_t instance, uint64_t incarnation) {
    ControlMessage message = From();
    messages::ClusterView& view = *message.mutable_cluster_view();
    view.set_members_number(1);
    messages::Member& member = *view.add_members();
    member.set_instance(instance);
    member.set_incarnation(incarnation);
    member.set_state(messages::MEMBER_LOST);
    manager_.Handle(kGManager, message, now_);
  }
  void PublishClaim(RequestId request, uint64_t epoch) {
    ControlMessage message = From();
    message.mutable_cluster_view()->set_epoch(epoch);
    ToWire(request, message.mutable_cluster_view()->mutable_claim()->mutable_request());
    manager_.Handle(kGManager, message, now_);
  }

  KvPool pool_{100};
  RManager manager_{Options(), &pool_};
  absl::Time now_ = kStart;
};

TEST_F(CreditorTest, AnOfferThatFitsIsReservedAndNotYetPublished) {
  const messages::TryMoveKvReply reply = Try(7, 30);
  ASSERT_TRUE(reply.has_loan());
  EXPECT_EQ(reply.ticket(), 7);
  EXPECT_EQ(reply.blocks(), 30);
  EXPECT_EQ(reply.lendable(), 50);
  EXPECT_EQ(CreditorOf(LoanId{reply.loan().id()}), InstanceId{2});
  EXPECT_EQ(reply.loan().epoch(), uint64_t{5} << 32);
  EXPECT_EQ(pool_.free_count(), 70);
  EXPECT_TRUE(manager_.hosted()->loans.empty());
}

TEST_F(CreditorTest, AnOfferBeyondTheLimitsIsRefusedWithWhatIsLeft) {
  EXPECT_EQ(Try(1, 81).lendable(), 80);  // lent_max
  ASSERT_TRUE(Try(2, 50).has_loan());
  const messages::TryMoveKvReply reply = Try(3, 31);
  EXPECT_FALSE(reply.has_loan());
  EXPECT_EQ(reply.lendable(), 30);
  ASSERT_TRUE(pool_.Allocate(30).ok());
  EXPECT_EQ(Try(4, 11).lendable(), 10);  // the reserve of 10 stays
  EXPECT_TRUE(Try(5, 10).has_loan());
  EXPECT_EQ(manager_.counters().refused, 3);
  EXPECT_EQ(manager_.lendable_now(), 0);
}

TEST(CreditorLimitsTest, WithoutReserveTheWholePoolCanBeLent) {
  KvPool pool(7);
  RManager manager({.self = InstanceId{1}, .instances = 2, .reserve = 0, .lent_max = 1}, &pool);
  EXPECT_EQ(manager.lendable_now(), 7);
}

TEST_F(CreditorTest, TheSameOfferAgainGivesTheSameLoan) {
  const messages::TryMoveKvReply first = Try(7, 30), second = Try(7, 30);
  EXPECT_EQ(first.loan().id(), second.loan().id());
  ASSERT_TRUE(Activate(first.loan()));
  EXPECT_EQ(Try(7, 30).loan().id(), first.loan().id());
  EXPECT_EQ(pool_.free_count(), 70);
}

TEST_F(CreditorTest, ActivationPublishesTheSlotsAndIsRepeatable) {
  const messages::LoanKey loan = Try(7, 3).loan();
  ASSERT_TRUE(Activate(loan));
  ASSERT_TRUE(Activate(loan));
  const std::shared_ptr<const LoanSlots> slots = manager_.hosted()->Find(LoanId{loan.id()}, loan.epoch());
  ASSERT_NE(slots, nullptr);
  EXPECT_EQ(slots->blocks.size(), 3);
  EXPECT_EQ(slots->loan.debtor, InstanceId{1});
  EXPECT_EQ(slots->loan.request, kRequest);
  EXPECT_EQ(manager_.hosted()->Find(LoanId{loan.id()}, loan.epoch() + 1), nullptr);
  EXPECT_EQ(manager_.counters().granted, 1);
}

TEST_F(CreditorTest, AReservationIsRepaidBeforeUse) {
  const messages::LoanKey loan = Try(7, 3).loan();
  EXPECT_TRUE(Repay(loan));
  EXPECT_EQ(pool_.free_count(), 100);
  EXPECT_FALSE(Activate(loan));
  EXPECT_EQ(manager_.counters().withdrawn, 1);
  EXPECT_EQ(manager_.counters().repaid, 0);
}

TEST_F(CreditorTest, AReservationThatIsNeverActivatedExpires) {
  const messages::LoanKey loan = Try(7, 3).loan();
  EXPECT_LE(manager_.NextDeadline(), now_ + absl::Seconds(30));
  now_ += absl::Seconds(29);
  manager_.Tick(now_);
  EXPECT_EQ(pool_.free_count(), 97);
  now_ += absl::Seconds(1);
  manager_.Tick(now_);
  EXPECT_EQ(pool_.free_count(), 100);
  EXPECT_FALSE(Activate(loan));
  EXPECT_EQ(manager_.counters().expired, 1);
  EXPECT_GT(Try(8, 3).loan().epoch(), loan.epoch()) << "a loan ended without its debtor: a new epoch";
}

TEST_F(CreditorTest, AnActiveLoanDoesNotExpire) {
  const messages::LoanKey loan = Try(7, 3).loan();
  ASSERT_TRUE(Activate(loan));
  now_ += absl::Hours(1);
  manager_.Tick(now_);
  EXPECT_THAT(Drain(), testing::IsEmpty());
  EXPECT_EQ(pool_.free_count(), 97);
  EXPECT_EQ(manager_.hosted()->loans.size(), 1);
}

TEST_F(CreditorTest, RepaymentFreesOnceAndIsAcknowledgedAgain) {
  const messages::LoanKey loan = Try(7, 3).loan();
  ASSERT_TRUE(Activate(loan));
  EXPECT_TRUE(Repay(loan));
  EXPECT_TRUE(Repay(loan));
  EXPECT_EQ(pool_.free_count(), 100);
  EXPECT_EQ(manager_.counters().repaid, 1);
  EXPECT_TRUE(manager_.hosted()->loans.empty());
}

TEST_F(CreditorTest, BlocksOfARepaidLoanStayUntilServiceLetsGoOfThem) {
  const messages::LoanKey loan = Try(7, 80).loan();
  ASSERT_TRUE(Activate(loan));
  std::shared_ptr<const HostedLoans> snapshot = manager_.hosted();
  std::shared_ptr<const LoanSlots> slots = snapshot->Find(LoanId{loan.id()}, loan.epoch());
  EXPECT_TRUE(Repay(loan));
  EXPECT_TRUE(manager_.hosted()->loans.empty());
  EXPECT_EQ(pool_.free_count(), 20);
  EXPECT_FALSE(Try(8, 1).has_loan()) << "blocks still read count as lent";
  snapshot.reset();
  manager_.Tick(now_);
  EXPECT_EQ(pool_.free_count(), 20) << "a single loan may be held without its snapshot";
  std::thread service([&] { slots.reset(); });
  service.join();
  manager_.Tick(now_);
  EXPECT_EQ(pool_.free_count(), 100);
  EXPECT_TRUE(Try(9, 1).has_loan());
}

TEST_F(CreditorTest, OnlyTheDebtorWithTheRightEpochTouchesALoan) {
  const messages::LoanKey loan = Try(7, 3).loan();
  EXPECT_FALSE(Activate(loan, 0)) << "another worker";
  messages::LoanKey stale = loan;
  stale.set_epoch(loan.epoch() - 1);
  EXPECT_FALSE(Activate(stale));
  EXPECT_TRUE(Repay(stale)) << "acknowledged, so that the sender stops";
  EXPECT_TRUE(Repay(loan, 0));
  EXPECT_EQ(pool_.free_count(), 97);
  EXPECT_TRUE(Activate(loan));
}

TEST_F(CreditorTest, ALostDebtorsLoansEndUnderANewEpoch) {
  const messages::LoanKey active = Try(7, 3).loan();
  ASSERT_TRUE(Activate(active));
  const messages::LoanKey reserved = Try(8, 4).loan();
  PublishLost(kDebtor, 1);
  EXPECT_EQ(pool_.free_count(), 100);
  EXPECT_EQ(manager_.counters().lost, 1);
  EXPECT_GT(manager_.hosted()->epoch, active.epoch());
  ControlMessage late = From(1);
  *late.mutable_activate_loan()->mutable_loan() = reserved;
  EXPECT_THAT(Answers(kDebtor, late), testing::IsEmpty());
  EXPECT_EQ(manager_.counters().stale, 1);
}

TEST_F(CreditorTest, ADebtorThatCannotBeReachedKeepsItsLoansHere) {
  const messages::LoanKey active = Try(7, 3).loan();
  ASSERT_TRUE(Activate(active));
  manager_.PeerUnreachable(kDebtor, now_);
  EXPECT_EQ(pool_.free_count(), 97);
  EXPECT_TRUE(Repay(active));
  EXPECT_EQ(pool_.free_count(), 100);
}

class RecallTest : public CreditorTest {
 protected:
  // An own request lacks `blocks` beyond what is free, since `waited`.
  void SetBlocked(uint32_t blocks, absl::Duration waited, RequestId request = {200, 1}) {
    manager_.SetLoad(
        {.oldest_blocked = Load::Blocked{
             .request = request, .blocks = pool_.free_count() + blocks, .since = now_ - waited}});
  }
  std::vector<messages::Recall> Recalls() {
    manager_.Tick(now_);
    std::vector<messages::Recall> recalls;
    for (const Outgoing& out : Drain()) {
      if (out.message.has_recall()) recalls.push_back(out.message.recall());
    }
    return recalls;
  }
};

TEST_F(RecallTest, OwnRequestsComeFirstTheYoungestBorrowersGiveBackFirstAndOnlyAsMuchAsIsLacking) {
  const messages::LoanKey old = Try(7, 30, messages::PURPOSE_ADMISSION, {10, 1}).loan();
  const messages::LoanKey young = Try(8, 20, messages::PURPOSE_ADMISSION, {300, 1}).loan();
  ASSERT_TRUE(Activate(old));
  ASSERT_TRUE(Activate(young));
  SetBlocked(5, absl::Milliseconds(249));
  EXPECT_THAT(Recalls(), testing::IsEmpty()) << "too early";
  SetBlocked(51, absl::Milliseconds(250));
  EXPECT_THAT(Recalls(), testing::IsEmpty()) << "not even all loans together would help";
  SetBlocked(5, absl::Milliseconds(250));
  const std::vector<messages::Recall> recalls = Recalls();
  ASSERT_THAT(recalls, testing::SizeIs(1));
  EXPECT_EQ(recalls[0].loan().id(), young.id());
  EXPECT_EQ(recalls[0].wanted_for().arrival_us(), 200);
  EXPECT_THAT(Recalls(), testing::IsEmpty()) << "asked already";
  now_ += absl::Seconds(1);
  EXPECT_THAT(Recalls(), testing::SizeIs(1)) << "again, as no answer came";
  EXPECT_NE(manager_.hosted()->Find(LoanId{young.id()}, young.epoch()), nullptr)
      << "served until it is repaid";
  EXPECT_TRUE(Repay(young));
  EXPECT_EQ(pool_.free_count(), 70);
  EXPECT_EQ(manager_.counters().recalled, 1);
  EXPECT_EQ(manager_.counters().repaid, 1);
}

TEST_F(RecallTest, MemoryCalledBackIsNotLentAgainToYoungerRequests) {
  ASSERT_TRUE(Activate(Try(7, 30, messages::PURPOSE_ADMISSION, {300, 1}).loan()));
  SetBlocked(5, absl::Seconds(1));
  ASSERT_THAT(Recalls(), testing::SizeIs(1));
  EXPECT_FALSE(Try(9, 1, messages::PURPOSE_ADMISSION, {201, 1}).has_loan());
  EXPECT_TRUE(Try(10, 1, messages::PURPOSE_ADMISSION, {199, 1}).has_loan());
}

TEST_F(RecallTest, AnOlderRequestMayDeclineAYoungerOneMayNot) {
  const messages::LoanKey old = Try(7, 30, messages::PURPOSE_ADMISSION, {10, 1}).loan();
  ASSERT_TRUE(Activate(old));
  SetBlocked(5, absl::Seconds(1));
  ASSERT_THAT(Recalls(), testing::SizeIs(1));
  ControlMessage declined = From();
  *declined.mutable_recall_declined()->mutable_loan() = old;
  Answers(kDebtor, declined);
  now_ += absl::Milliseconds(1999);
  SetBlocked(5, absl::Seconds(1));
  EXPECT_THAT(Recalls(), testing::IsEmpty());
  now_ += absl::Milliseconds(1);
  SetBlocked(5, absl::Seconds(1), {9, 1});
  EXPECT_THAT(Recalls(), testing::SizeIs(1));
  Answers(kDebtor, declined);  // the waiting request is the older one now
  now_ += absl::Seconds(1);
  EXPECT_THAT(Recalls(), testing::SizeIs(1));
}

TEST_F(RecallTest, AfterTheDeadlineTheLoanEndsUnderANewEpoch) {
  const messages::LoanKey loan = Try(7, 30, messages::PURPOSE_ADMISSION, {300, 1}).loan();
  ASSERT_TRUE(Activate(loan));
  SetBlocked(5, absl::Seconds(1));
  ASSERT_THAT(Recalls(), testing::SizeIs(1));
  now_ += absl::Seconds(20);
  Recalls();
  EXPECT_EQ(manager_.hosted()->Find(LoanId{loan.id()}, loan.epoch()), nullptr);
  EXPECT_GT(manager_.hosted()->epoch, loan.epoch());
  EXPECT_EQ(pool_.free_count(), 100);
  EXPECT_EQ(manager_.counters().overdue, 1);
  EXPECT_EQ(manager_.counters().lost, 1);
}

TEST_F(RecallTest, WhileOwnRequestsRunYoungerOnesBorrowWhatTheGuardAllowsOlderOnesAll) {
  Load load;
  load.oldest_running = RequestId{200, 1};
  load.block_share = 0.05 / 25;
  manager_.SetLoad(load);
  EXPECT_EQ(Try(1, 26, messages::PURPOSE_ADMISSION, {300, 1}).lendable(), 25);
  ASSERT_TRUE(Try(2, 20, messages::PURPOSE_ADMISSION, {300, 1}).has_loan());
  const messages::TryMoveKvReply refused = Try(3, 6, messages::PURPOSE_MOVE, {300, 1});
  EXPECT_FALSE(refused.has_loan());
  EXPECT_EQ(refused.lendable(), 5);
  EXPECT_EQ(refused.lendable_older(), 60);
  EXPECT_TRUE(Try(4, 6, messages::PURPOSE_GROWTH, {300, 1}).has_loan());
  EXPECT_TRUE(Try(5, 30, messages::PURPOSE_ADMISSION, {10, 1}).has_loan());
  manager_.SetLoad(Load{});
  EXPECT_TRUE(Try(6, 20, messages::PURPOSE_ADMISSION, {300, 1}).has_loan()) << "nothing to guard";
}

TEST_F(RecallTest, WhatTheGuardCannotBearIsCalledBackTheYoungestRequestFirst) {
  const messages::LoanKey old = Try(7, 10, messages::PURPOSE_ADMISSION, {10, 1}).loan();
  const messages::LoanKey young = Try(8, 10, messages::PURPOSE_ADMISSION, {300, 1}).loan();
  ASSERT_TRUE(Activate(old));
  ASSERT_TRUE(Activate(young));
  Load load;
  load.oldest_running = RequestId{200, 1};
  manager_.SetLoad(load);
  std::vector<messages::Recall> recalls;
  double own = 0;
  for (; recalls.empty() && own < 10; own += 0.5, now_ += absl::Milliseconds(500)) {
    manager_.SetService(own, own);  // a query lacked credit in every step
    recalls = Recalls();
  }
  EXPECT_GT(own, 2);
  ASSERT_THAT(recalls, testing::SizeIs(1));
  EXPECT_EQ(recalls[0].loan().id(), young.id());
  EXPECT_EQ(recalls[0].wanted_for().arrival_us(), 200);
  EXPECT_TRUE(Repay(young));
  EXPECT_FALSE(Try(9, 1, messages::PURPOSE_ADMISSION, {301, 1}).has_loan()) << "not again for a while";
  EXPECT_TRUE(Try(10, 1, messages::PURPOSE_ADMISSION, {11, 1}).has_loan());
  EXPECT_EQ(manager_.counters().guard_recalls, 1);
}

class AdoptionTest : public CreditorTest {
 protected:
  static constexpr int kNewHome = 0;  // with gManager
  void TellStored(const messages::LoanKey& loan, uint32_t first_slot, const std::vector<uint32_t>& blocks) {
    ControlMessage message = From();
    messages::SpanStored& stored = *message.mutable_span_stored();
    *stored.mutable_loan() = loan;
    stored.set_first_slot(first_slot);
    for (uint32_t block : blocks) stored.add_blocks(block), stored.add_names(100 + block);
    EXPECT_THAT(Answers(kDebtor, message), testing::IsEmpty());
  }
  // The answers to a new home that knows blocks 0 .. names - 1.
  std::vector<Outgoing> Ask(uint64_t ticket, uint32_t names, RequestId request = kRequest) {
    ControlMessage message = From();
    messages::TryMoveKv& ask = *message.mutable_try_move_kv();
    ask.set_ticket(ticket);
    ask.set_blocks(names);
    ask.set_purpose(messages::PURPOSE_ADOPT);
    ToWire(request, ask.mutable_request());
    ask.mutable_adopt()->set_instance(kDebtor);
    ask.mutable_adopt()->set_incarnation(1);
    for (uint32_t block = 0; block < names; ++block) ask.mutable_adopt()->add_names(100 + block);
    return Answers(kNewHome, message);
  }
};

TEST_F(AdoptionTest, WhatALostDebtorHadStoredIsLentToTheNewHomeUnderANewEpoch) {
  const messages::LoanKey loan = Try(7, 8).loan();
  ASSERT_TRUE(Activate(loan));
  TellStored(loan, 0, {0, 1, 4, 5, 6, 9});  // two slots are not used
  EXPECT_THAT(Ask(1, 7), testing::IsEmpty()) << "its loss has not been heard of";
  PublishLost(kDebtor, 1);
  EXPECT_EQ(pool_.free_count(), 100) << "held over, and free if wanted";
  EXPECT_EQ(manager_.hosted()->Find(LoanId{loan.id()}, loan.epoch()), nullptr);
  const std::vector<Outgoing> answers = Ask(1, 7);
  ASSERT_THAT(answers, testing::SizeIs(1));
  const messages::TryMoveKvReply& reply = answers[0].message.try_move_kv_reply();
  ASSERT_TRUE(reply.has_loan());
  EXPECT_THAT(reply.adopted(), testing::ElementsAre(0, 1, 4, 5, 6));
  EXPECT_EQ(reply.blocks(), 5);
  EXPECT_NE(reply.loan().id(), loan.id());
  EXPECT_GT(reply.loan().epoch(), loan.epoch());
  EXPECT_EQ(pool_.free_count(), 95);
  const std::vector<Outgoing> again = Ask(1, 7);
  ASSERT_THAT(again, testing::SizeIs(1));
  EXPECT_EQ(again[0].message.try_move_kv_reply().SerializeAsString(), reply.SerializeAsString());
  const std::vector<Outgoing> second = Ask(2, 7);
  ASSERT_THAT(second, testing::SizeIs(1));
  EXPECT_FALSE(second[0].message.try_move_kv_reply().has_loan()) << "a span is adopted once";
  EXPECT_TRUE(Activate(reply.loan(), kNewHome));
  EXPECT_NE(manager_.hosted()->Find(LoanId{reply.loan().id()}, reply.loan().epoch()), nullptr);
  EXPECT_TRUE(Repay(reply.loan(), kNewHome));
  EXPECT_EQ(pool_.free_count(), 100);
}

TEST_F(AdoptionTest, WhatIsNotNamedNotInUseOrOverIsNotHeldOver) {
  const messages::LoanKey unnamed = Try(7, 3).loan(), reserved = Try(8, 3).loan();
  ASSERT_TRUE(Activate(unnamed));
  TellStored(reserved, 0, {0, 1});
  PublishLost(kDebtor, 1);
  EXPECT_THAT(manager_.held_over(), testing::IsEmpty());
  EXPECT_FALSE(Ask(1, 2)[0].message.try_move_kv_reply().has_loan());
}

TEST_F(AdoptionTest, ItIsHeldOverForAWhileAndForNobodyElsesLoan) {
  const messages::LoanKey loan = Try(7, 8).loan();
  ASSERT_TRUE(Activate(loan));
  TellStored(loan, 0, {0, 1, 2});
  PublishLost(kDebtor, 1);
  EXPECT_EQ(manager_.held_over().size(), 3);
  ASSERT_TRUE(pool_.Allocate(98).ok());  // an own request wants memory
  EXPECT_EQ(manager_.held_over().size(), 2);
  now_ += absl::Seconds(10);
  manager_.Tick(now_);
  EXPECT_THAT(manager_.held_over(), testing::IsEmpty());
  EXPECT_EQ(pool_.free_count(), 2);
}

TEST_F(CreditorTest, WhoIsFencedForgetsEverythingAndReportsAsTheNextIncarnation) {
  const messages::LoanKey loan = Try(7, 3).loan();
  ASSERT_TRUE(Activate(loan));
  const auto reader = manager_.hosted();  // a service thread at work
  ControlMessage fenced = From();
  fenced.mutable_fenced()->set_incarnation(4);
  manager_.Handle(kGManager, fenced, now_);
  EXPECT_THAT(manager_.TakeEvents(), testing::IsEmpty()) << "of an earlier process of this instance";
  fenced.mutable_fenced()->set_incarnation(5);
  manager_.Handle(kGManager, fenced, now_);
  const std::vector<RManager::Event> events = manager_.TakeEvents();
  ASSERT_THAT(events, testing::SizeIs(1));
  EXPECT_EQ(std::get<FencedOut>(events[0]).next, Incarnation{6});
  Drain();
  manager_.Tick(now_);
  EXPECT_THAT(manager_.TakeOutgoing(), testing::IsEmpty()) << "nothing as the old one";
  manager_.Restart(Incarnation{6});
  EXPECT_EQ(pool_.free_count(), 97) << "still read";
  EXPECT_EQ(manager_.hosted()->Find(LoanId{loan.id()}, loan.epoch()), nullptr);
  manager_.Tick(now_);
  const std::vector<Outgoing> sent = manager_.TakeOutgoing();
  ASSERT_THAT(sent, testing::SizeIs(1));
  EXPECT_EQ(sent[0].message.incarnation(), 6);
  EXPECT_TRUE(sent[0].message.heartbeat().full());
  EXPECT_EQ(sent[0].message.heartbeat().seq(), 1);
}

TEST_F(CreditorTest, ARestartedDebtorHasLostItsLoansAndItsEarlierMessagesAreStale) {
  ASSERT_TRUE(Activate(Try(7, 3).loan()));
  ControlMessage restarted = From(2);
  restarted.mutable_repay();
  Answers(kDebtor, restarted);
  EXPECT_EQ(pool_.free_count(), 100);
  ControlMessage late = From(1);
  late.mutable_try_move_kv()->set_blocks(1);
  late.mutable_try_move_kv()->set_purpose(messages::PURPOSE_MOVE);
  EXPECT_THAT(Answers(kDebtor, late), testing::IsEmpty());
  EXPECT_EQ(manager_.counters().stale, 1);
}

TEST_F(CreditorTest, WhileAnOlderRequestHasTheClaimOnlyGrowthOfYoungerOnesIsServed) {
  PublishClaim({50, 9}, 1);
  EXPECT_FALSE(Try(1, 1, messages::PURPOSE_ADMISSION).has_loan());
  EXPECT_FALSE(Try(2, 1, messages::PURPOSE_MOVE).has_loan());
  EXPECT_TRUE(Try(3, 1, messages::PURPOSE_GROWTH).has_loan());
  EXPECT_TRUE(Try(4, 1, messages::PURPOSE_ADMISSION, {50, 9}).has_loan()) << "the one with the claim";
  EXPECT_TRUE(Try(5, 1, messages::PURPOSE_ADMISSION, {50, 8}).has_loan()) << "an older one";
  EXPECT_FALSE(manager_.MayAdmit({50, 10}));
  EXPECT_TRUE(manager_.MayAdmit({50, 9}));
  PublishClaim({200, 1}, 2);
  EXPECT_TRUE(Try(6, 1).has_loan());
  PublishClaim({50, 9}, 1);  // overtaken on the way
  EXPECT_TRUE(Try(7, 1).has_loan());
}

TEST_F(CreditorTest, MalformedMessagesAreCountedAndDropped) {
  const uint64_t before = manager_.counters().malformed;
  ControlMessage message = From();
  message.mutable_try_move_kv()->set_purpose(messages::PURPOSE_ADMISSION);  // no blocks
  EXPECT_THAT(Answers(kDebtor, message), testing::IsEmpty());
  message.mutable_try_move_kv()->set_blocks(1);
  EXPECT_THAT(Answers(-1, message), testing::IsEmpty());
  EXPECT_THAT(Answers(3, message), testing::IsEmpty());
  EXPECT_THAT(Answers(2, message), testing::IsEmpty()) << "from itself";
  message.mutable_try_move_kv()->set_purpose(messages::PURPOSE_UNSPECIFIED);
  EXPECT_THAT(Answers(kDebtor, message), testing::IsEmpty());
  ControlMessage view = From();
  view.mutable_cluster_view()->set_epoch(1);
  EXPECT_THAT(Answers(kDebtor, view), testing::IsEmpty()) << "a view that is not gManager's";
  EXPECT_THAT(Answers(kDebtor, From()), testing::IsEmpty()) << "no body";
  EXPECT_THAT(Answers(kDebtor, From(0)), testing::IsEmpty()) << "no incarnation";
  EXPECT_EQ(manager_.counters().malformed - before, 8);
}

}  // namespace
}  // namespace lombard
