// Goal: pairs open when both ends have agreed and are asked for again only where that can help; every wait of
// a debtor ends. Method: ranks whose messages are handed over by the test, and collectives that connect when
// both ends have come, without any stream.
#include "distattn/gpu_exchanger.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>

#include "absl/strings/str_cat.h"
#include "distattn/announced_exchanges.h"

namespace lombard {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

class SetClock final : public Clock {
 public:
  absl::Time Now() const override { return now += step; }
  mutable absl::Time now = absl::UnixEpoch();
  absl::Duration step;  // that each look takes
};

// Ends of pairs, by key; shared by the ranks of a test.
using Ends = std::map<std::string, int>;

class FakeCollectives final : public Collectives {
 public:
  FakeCollectives(Ends* ends, GpuPlace place) : ends_(*ends), place_(std::move(place)) {}
  absl::StatusOr<std::string> NewKey() override { return absl::StrCat(place_.pci, " ", ++keys_); }
  absl::Status Open(LoanPair pair, absl::string_view key, const GpuPlace& other, absl::Time) override {
    if (other == place_) return absl::FailedPreconditionError("one GPU");
    if (keys_of_.contains(pair)) return absl::AlreadyExistsError("open");
    keys_of_[pair] = std::string(key);
    ++ends_[std::string(key)];
    return absl::OkStatus();
  }
  bool IsOpen(LoanPair pair) const override {
    const auto found = keys_of_.find(pair);
    return found != keys_of_.end() && ends_[found->second] == 2;
  }
  absl::Status Send(LoanPair, const void*, uint64_t, GpuStreamRef) override { return absl::OkStatus(); }
  absl::Status Receive(LoanPair, void*, uint64_t, GpuStreamRef) override { return absl::OkStatus(); }
  std::vector<Closed> Poll(absl::Time) override {
    for (const Closed& closed : failing) Close(closed.pair);
    return std::exchange(failing, {});
  }
  void Close(LoanPair pair) override { keys_of_.erase(pair); }

  std::vector<Closed> failing;

 private:
  Ends& ends_;
  const GpuPlace place_;
  int keys_ = 0;
  std::map<LoanPair, std::string> keys_of_;
};

class World;

class FakeTransport final : public Transport {
 public:
  FakeTransport(World* world, int rank) : world_(*world), rank_(rank) {}
  int rank() const override { return rank_; }
  int size() const override { return 3; }
  std::string Describe() const override { return "test"; }
  absl::Status Send(int to, Message message) override;
  void Poll(TransportHandler&, absl::Duration) override {}
  void Wake() override {}
  TrafficCounters counters() const override { return {}; }
  void Close(absl::Duration) override {}

 private:
  World& world_;
  const int rank_;
};

// Messages arrive while they are sent, as if everybody were quick, but for those to silent ranks.
class World {
 public:
  explicit World(absl::Duration answer_wait = absl::Seconds(100), bool one_gpu = false) {
    for (int rank = 0; rank < 3; ++rank) {
      const GpuPlace place{"host", one_gpu ? "gpu" : absl::StrCat("gpu ", rank)};
      auto collectives = std::make_unique<FakeCollectives>(&ends, place);
      ranks.push_back(
          {.collectives = collectives.get(), .transport = std::make_unique<FakeTransport>(this, rank)});
      ranks.back().exchanger = std::make_unique<GpuExchanger>(
          GpuExchanger::Options{.place = place,
                                .answer_wait = answer_wait,
                                .on_hang = [this](const absl::Status&) { ++hangs; }},
          std::move(collectives), ranks.back().transport.get(), &clock);
    }
  }

  absl::Status Deliver(int from, int to, const Message& message) {
    if (down.contains(to)) return absl::UnavailableError("down");
    sent.push_back(*PeekKind(message.header));
    if (silent.contains(to)) return absl::OkStatus();
    GpuExchanger& exchanger = *ranks[to].exchanger;
    if (sent.back() == WireKind::kPairOpen) {
      exchanger.OnPairOpen(from, message);
    } else if (sent.back() == WireKind::kAnnounce) {
      AnnounceHeader header;
      Announcement announcement;
      EXPECT_TRUE(DecodeAnnounce(message.header, &header, &announcement.items).ok());
      announcement.exchange = {from, header.serial}, announcement.step = header.step;
      const auto holds = [&](const QueryItem& item) { return item.loan != kNotHeld; };
      exchanger.Answer(announcement.exchange, exchanger.OnAnnouncement(announcement, holds));
    } else {
      exchanger.OnMessage(from, message);
    }
    return absl::OkStatus();
  }
  std::set<int> Ask(int debtor, const std::vector<int>& creditors, uint64_t loan = 1) {
    std::vector<GpuExchanger::Wish> wishes;
    for (const int creditor : creditors)
      wishes.push_back({creditor, {{.loan = loan, .rows = 2, .token_count = 5}}});
    return ranks[debtor].exchanger->Ask(1, wishes);
  }
  // PairOpen and its answer; the connection; the first exchange.
  void Open(int debtor, int creditor) {
    EXPECT_THAT(Ask(debtor, {creditor}), IsEmpty());
    EXPECT_THAT(Ask(debtor, {creditor}), IsEmpty());
    EXPECT_THAT(Ask(debtor, {creditor}), ElementsAre(creditor));
    EndExchange(debtor, {creditor});
  }
  void EndExchange(int debtor, const std::set<int>& creditors) {
    EXPECT_THAT(ranks[debtor].exchanger->EndRunning(0), IsEmpty());
    for (const int creditor : creditors) ranks[creditor].exchanger->EndServing(0);
  }
  GpuExchanger::Counters counters(int rank) const { return ranks[rank].exchanger->counters(); }

  static constexpr uint64_t kNotHeld = 99;
  struct Rank {
    FakeCollectives* collectives;
    std::unique_ptr<FakeTransport> transport;
    std::unique_ptr<GpuExchanger> exchanger;
  };
  SetClock clock;
  Ends ends;
  std::vector<Rank> ranks;
  std::set<int> silent, down;
  int hangs = 0;  // that ranks were told of
  std::vector<WireKind> sent;
};

absl::Status FakeTransport::Send(int to, Message message) { return world_.Deliver(rank_, to, message); }

TEST(GpuExchanger, APairOpensWhenItIsWishedForAndThenIsAnnounced) {
  World world;
  world.Open(0, 1);
  EXPECT_THAT(world.Ask(0, {1, 2}), ElementsAre(1)) << "the other one is not open yet";
  EXPECT_THAT(world.Ask(2, {0}), IsEmpty());
  world.EndExchange(0, {1});
  EXPECT_THAT(world.Ask(0, {1, 2}), ElementsAre(1));
  world.EndExchange(0, {1});
  EXPECT_THAT(world.Ask(0, {1, 2}), ElementsAre(1, 2));
  world.EndExchange(0, {1, 2});
  EXPECT_EQ(world.counters(0).exchanges, 5u);
  EXPECT_EQ(world.counters(0).attended_tokens, 5u * 2 * 5);
  EXPECT_EQ(world.counters(0).not_accepted, 0u);
}

TEST(GpuExchanger, WhoIsInAnExchangeOrHoldsNoSuchLoanSaysNo) {
  World world;
  world.Open(0, 1);
  world.Open(2, 1);
  world.Open(1, 2);
  EXPECT_THAT(world.Ask(0, {1}), ElementsAre(1));
  EXPECT_THAT(world.Ask(2, {1}), IsEmpty()) << "it serves";
  EXPECT_THAT(world.Ask(1, {2}), IsEmpty()) << "and asks nobody meanwhile";
  world.EndExchange(0, {1});
  EXPECT_THAT(world.Ask(2, {1}, World::kNotHeld), IsEmpty());
  EXPECT_THAT(world.Ask(2, {1}), ElementsAre(1));
  world.EndExchange(2, {1});
  EXPECT_EQ(world.counters(2).not_accepted, 2u);
  EXPECT_EQ(world.counters(1).not_accepted, 1u);
}

TEST(GpuExchanger, WhoWillNotConnectIsAskedOnce) {
  World world(absl::Seconds(100), /*one_gpu=*/true);
  for (int step = 0; step < 5; ++step) {
    EXPECT_THAT(world.Ask(0, {1}), IsEmpty());
    world.clock.now += absl::Minutes(1);
  }
  EXPECT_THAT(world.sent, ElementsAre(WireKind::kPairOpen, WireKind::kPairOpened));
  world.ranks[0].exchanger->OnPeerLost(1);  // another process may come in its place
  EXPECT_THAT(world.Ask(0, {1}), IsEmpty());
  EXPECT_EQ(world.sent.size(), 4u);
}

TEST(GpuExchanger, WhoIsSilentOrDownIsAskedAgainLater) {
  World world;
  world.silent = {1}, world.down = {2};
  EXPECT_THAT(world.Ask(0, {1, 2}), IsEmpty());
  EXPECT_THAT(world.Ask(0, {1, 2}), IsEmpty());
  EXPECT_EQ(world.sent.size(), 1u);
  world.silent.clear(), world.down.clear();
  world.clock.now += absl::Seconds(2);
  EXPECT_THAT(world.Ask(0, {1, 2}), IsEmpty());
  EXPECT_EQ(world.sent.size(), 3u) << "the one that was down";
  world.clock.now += absl::Seconds(31);
  world.Open(0, 1);
}

TEST(GpuExchanger, WhoDoesNotAnswerInTimeLosesThePairAndGetsANewOne) {
  World world(/*answer_wait=*/absl::Milliseconds(1));
  world.Open(0, 1);
  world.Open(0, 2);
  world.silent = {1};
  EXPECT_THAT(world.Ask(0, {1, 2}), ElementsAre(2));
  EXPECT_FALSE(world.ranks[0].collectives->IsOpen({0, 1}));
  EXPECT_EQ(world.sent.back(), WireKind::kPairClosed);
  world.EndExchange(0, {2});
  EXPECT_EQ(world.counters(0).pairs_closed, 1u);
  world.silent.clear();
  EXPECT_THAT(world.Ask(0, {1, 2}), ElementsAre(2)) << "not at once";
  world.EndExchange(0, {2});
  world.clock.now += absl::Seconds(1);
  world.Open(0, 1);
}

TEST(GpuExchanger, AnExchangeThatDoesNotEndIsCutOffAtBothEnds) {
  World world;
  world.Open(0, 1);
  EXPECT_THAT(world.Ask(0, {1}), ElementsAre(1));
  int asked = 0;
  const absl::Status passed = world.ranks[0].exchanger->Await([&]() -> absl::StatusOr<bool> {
    if (++asked == 3) world.clock.now += absl::Seconds(60);
    return !world.ranks[0].collectives->IsOpen({0, 1});  // its abort ends what is in the streams
  });
  EXPECT_TRUE(passed.ok()) << passed;
  EXPECT_FALSE(world.ranks[1].collectives->IsOpen({0, 1}));
  EXPECT_THAT(world.ranks[0].exchanger->EndRunning(0), ElementsAre(1));
  world.ranks[1].exchanger->EndServing(0);
  EXPECT_EQ(world.counters(0).pairs_closed, 1u);

  world.clock.now += absl::Seconds(1);
  world.Open(0, 1);
  EXPECT_THAT(world.Ask(0, {1}), ElementsAre(1));  // and by the creditor
  world.ranks[1].exchanger->WatchServing();
  EXPECT_TRUE(world.ranks[0].collectives->IsOpen({0, 1}));
  world.clock.now += absl::Seconds(50);
  world.Ask(2, {1}), world.Ask(2, {1}), world.Ask(2, {1});  // who is told no changes nothing
  world.clock.now += absl::Seconds(11);
  world.ranks[1].exchanger->WatchServing();
  EXPECT_FALSE(world.ranks[0].collectives->IsOpen({0, 1}));
  EXPECT_THAT(world.ranks[0].exchanger->EndRunning(0), ElementsAre(1));
}

TEST(GpuExchanger, AStreamThatDoesNotPassWhenItsPairsAreClosedHangs) {
  World world;
  world.Open(0, 1);
  EXPECT_THAT(world.Ask(0, {1}), ElementsAre(1));
  GpuExchanger &debtor = *world.ranks[0].exchanger, &creditor = *world.ranks[1].exchanger;
  world.clock.now += absl::Seconds(60);
  creditor.WatchServing();
  world.clock.now += absl::Seconds(29);
  creditor.WatchServing();
  EXPECT_TRUE(creditor.hung().ok()) << creditor.hung();
  world.clock.now += absl::Seconds(1);
  for (int i = 0; i < 3; ++i) creditor.WatchServing();
  EXPECT_EQ(creditor.hung().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(world.hangs, 1);

  world.clock.step = absl::Seconds(1);
  const absl::Time begin = world.clock.now;
  const auto never = []() -> absl::StatusOr<bool> { return false; };
  EXPECT_EQ(debtor.Await(never).code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_GE(world.clock.now, begin + absl::Seconds(90));
  EXPECT_EQ(debtor.Await(never), debtor.hung()) << "at once";
  EXPECT_EQ(world.hangs, 2);
}

TEST(GpuExchanger, AThreadThatDoesNotComeBackIsWatched) {
  for (const int watcher : {0, 1}) {
    World world;
    world.Open(0, 1);
    EXPECT_THAT(world.Ask(0, {1}), ElementsAre(1));
    GpuExchanger& exchanger = *world.ranks[watcher].exchanger;
    world.clock.now += watcher == 0 ? absl::Seconds(50) : absl::ZeroDuration();  // with the host's part
    EXPECT_TRUE(world.ranks[0].exchanger->Await([]() -> absl::StatusOr<bool> { return true; }).ok());
    world.clock.now += absl::Seconds(89);
    exchanger.Watch();
    EXPECT_TRUE(world.ranks[0].collectives->IsOpen({0, 1}));
    world.clock.now += absl::Seconds(1);
    exchanger.Watch();
    EXPECT_FALSE(world.ranks[0].collectives->IsOpen({0, 1}));
    EXPECT_FALSE(world.ranks[1].collectives->IsOpen({0, 1}));
    world.clock.now += absl::Seconds(29);
    exchanger.Watch();
    EXPECT_TRUE(exchanger.hung().ok());
    world.clock.now += absl::Seconds(1);
    exchanger.Watch();
    EXPECT_FALSE(exchanger.hung().ok());
  }
  World world;
  world.Open(0, 1);  // an exchange that has ended
  world.clock.now += absl::Hours(1);
  for (int i = 0; i < 3; ++i) world.ranks[0].exchanger->Watch(), world.ranks[1].exchanger->Watch();
  EXPECT_TRUE(world.ranks[0].collectives->IsOpen({0, 1}));
  EXPECT_EQ(world.hangs, 0);
}

TEST(GpuExchanger, WhenTheJobFailsAHangIsFoundSooner) {
  World world;
  world.Open(0, 1);
  EXPECT_THAT(world.Ask(0, {1}), ElementsAre(1));
  world.ranks[0].exchanger->Abort();
  world.clock.step = absl::Seconds(1);
  const absl::Time begin = world.clock.now;
  const absl::Status hung = world.ranks[0].exchanger->Await([]() -> absl::StatusOr<bool> { return false; });
  EXPECT_EQ(hung.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_LT(world.clock.now, begin + absl::Seconds(60));
}

TEST(GpuExchanger, AnErrorOfTheLibraryClosesThePairAtBothEnds) {
  World world;
  world.Open(0, 1);
  EXPECT_THAT(world.Ask(0, {1}), ElementsAre(1));
  world.ranks[1].collectives->failing = {{{0, 1}, absl::UnavailableError("remote error")}};
  world.ranks[1].exchanger->WatchServing();
  EXPECT_FALSE(world.ranks[0].collectives->IsOpen({0, 1}));
  EXPECT_THAT(world.ranks[0].exchanger->EndRunning(0), ElementsAre(1));
  // One that a call of this end has met tells the other end as well.
  world.ranks[1].exchanger->EndServing(0);
  world.clock.now += absl::Seconds(1);
  world.Open(0, 1);
  EXPECT_THAT(world.Ask(0, {1}), ElementsAre(1));
  world.ranks[0].collectives->Close({0, 1});
  EXPECT_THAT(world.ranks[0].exchanger->EndRunning(0), ElementsAre(1));
  EXPECT_FALSE(world.ranks[1].collectives->IsOpen({0, 1}));
}

TEST(GpuExchanger, WhoWasTakenForLostLearnsThatItsPairIsClosed) {
  World world;
  world.Open(0, 1);
  world.ranks[1].exchanger->OnPeerLost(0);
  EXPECT_THAT(world.Ask(0, {1}), IsEmpty());
  EXPECT_FALSE(world.ranks[0].collectives->IsOpen({0, 1}));
  world.clock.now += absl::Seconds(1);
  world.Open(0, 1);
}

TEST(GpuExchanger, ALostPeerAndTheEndOfTheJobEndWhatWaits) {
  World world;
  world.Open(0, 1);
  world.Open(2, 0);
  EXPECT_THAT(world.Ask(0, {1}), ElementsAre(1));
  world.ranks[0].exchanger->OnPeerLost(1);
  EXPECT_THAT(world.ranks[0].exchanger->EndRunning(0), ElementsAre(1));
  EXPECT_TRUE(world.ranks[0].collectives->IsOpen({2, 0}));
  world.ranks[0].exchanger->Abort();
  EXPECT_FALSE(world.ranks[0].collectives->IsOpen({2, 0}));
  EXPECT_THAT(world.Ask(0, {1, 2}), IsEmpty());
  EXPECT_THAT(world.Ask(2, {0}), IsEmpty());
}

class FakeAttention final : public AnnouncedAttention {
 public:
  absl::Status Prepare(absl::Span<const SpanQuery>) override { return prepared; }
  absl::Status Submit(Collectives&, LoanPair) override { return submitted; }
  absl::StatusOr<bool> Ended() override { return ended; }
  SpanAttention::Counts counts() const override { return {}; }
  double seconds() const override { return 3; }
  uint64_t state_bytes() const override { return 7; }
  absl::Status prepared, submitted;
  bool ended = false;
};

TEST(AnnouncedExchanges, PromisesWhatItCanKeepAndHoldsTheBlocksUntilTheEnd) {
  World world;
  world.Open(0, 1);
  FakeAttention attention;
  AnnouncedExchanges exchanges(world.ranks[1].exchanger.get(), &attention);
  const Announcement announcement{.exchange = {0, 9}, .step = 1, .items = {{.loan = 1}}};
  const auto blocks = std::make_shared<const std::vector<BlockId>>();
  int promised = 0;
  const auto announce = [&](absl::Status read, bool may_attend) {
    exchanges.EndIfOver();
    return exchanges.OnAnnouncement(announcement, {std::move(read), {}, {blocks}}, may_attend,
                                    [&] { ++promised; });
  };
  EXPECT_FALSE(announce(absl::OkStatus(), /*may_attend=*/false));
  EXPECT_FALSE(announce(absl::NotFoundError("no such loan"), true));
  attention.prepared = absl::ResourceExhaustedError("no memory");
  EXPECT_FALSE(announce(absl::OkStatus(), true));
  attention.prepared = absl::OkStatus();
  EXPECT_EQ(promised, 0);
  EXPECT_EQ(blocks.use_count(), 1);

  EXPECT_TRUE(announce(absl::OkStatus(), true));
  EXPECT_EQ(promised, 1);
  EXPECT_FALSE(announce(absl::OkStatus(), true)) << "one at a time";
  EXPECT_EQ(blocks.use_count(), 2) << "held";
  attention.ended = true;
  exchanges.EndIfOver();
  EXPECT_FALSE(exchanges.under_way());
  EXPECT_EQ(blocks.use_count(), 1);
  EXPECT_EQ(exchanges.TakeSeconds(), 3);
  EXPECT_EQ(exchanges.TakeSeconds(), 0);
  EXPECT_EQ(world.counters(1).state_bytes, 7u);
}

TEST(AnnouncedExchanges, ADebtorLearnsThatThePromiseIsBroken) {
  World world;
  world.Open(0, 1);
  FakeAttention attention;
  AnnouncedExchanges exchanges(world.ranks[1].exchanger.get(), &attention);
  attention.submitted = absl::UnavailableError("ncclSend");
  EXPECT_TRUE(exchanges.OnAnnouncement({.exchange = {0, 9}}, {}, true, [] {}));
  EXPECT_FALSE(world.ranks[0].collectives->IsOpen({0, 1}));
  attention.ended = true;
  exchanges.EndIfOver();
  EXPECT_EQ(world.counters(1).state_bytes, 0u);
}

TEST(AnnouncedExchanges, TheEndDoesNotWaitForeverForAGpuThatHangs) {
  World world;
  world.Open(0, 1);
  FakeAttention attention;
  AnnouncedExchanges exchanges(world.ranks[1].exchanger.get(), &attention);
  EXPECT_TRUE(exchanges.OnAnnouncement({.exchange = {0, 9}}, {}, true, [] {}));
  world.clock.step = absl::Seconds(1);
  exchanges.Stop();
  EXPECT_FALSE(world.ranks[0].collectives->IsOpen({0, 1}));
  EXPECT_TRUE(exchanges.under_way());
  EXPECT_FALSE(world.ranks[1].exchanger->hung().ok());
}

}  // namespace
}  // namespace lombard
