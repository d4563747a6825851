#include "fabric/sim_transport.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <set>
#include <thread>

#include "absl/strings/str_cat.h"
#include "tests/fabric/transport_ladder.h"

namespace lombard {
namespace {

using test::Peer;

// The ladder is written for ranks of their own, so time is moved by one more thread.
class SimLadder : public testing::TestWithParam<std::tuple<int, test::Rung>> {};

TEST_P(SimLadder, Holds) {
  const auto& [size, rung] = GetParam();
  SimNetwork network({.size = size, .link = {.jitter = absl::Microseconds(200), .bytes_per_s = 1e9}});
  std::vector<Transport*> transports;
  for (int i = 0; i < size; ++i) transports.push_back(&network.transport(i));
  std::atomic<bool> done{false};
  std::thread time([&] {
    while (!done) {
      if (!network.Step()) std::this_thread::yield();
    }
  });
  test::OnThreads(transports, rung.climb);
  done = true;
  time.join();
}

INSTANTIATE_TEST_SUITE_P(, SimLadder,
                         testing::Combine(testing::Values(1, 3), testing::ValuesIn(test::Ladder())),
                         [](const auto& info) {
                           return absl::StrCat(std::get<1>(info.param).name, "On", std::get<0>(info.param));
                         });

// Ranks of a network, in one thread.
struct Job {
  explicit Job(const SimOptions& options) : network(options) {
    for (int i = 0; i < options.size; ++i)
      peers.push_back(std::make_unique<Peer>(network.transport(i), Peer::Polling::kInline));
  }
  void Send(int from, int to, size_t bytes, std::string header = "") {
    peers[from]->MustSend(to, Channel::kKv, std::move(header), std::string(bytes, 'x'));
  }
  void PollAll() {
    for (auto& peer : peers) peer->transport().Poll(*peer, absl::ZeroDuration());
  }
  void RunToEnd() {
    do PollAll();
    while (network.Step());
    PollAll();
  }
  absl::Duration Elapsed() const { return network.Now() - absl::UnixEpoch(); }

  SimNetwork network;
  std::vector<std::unique_ptr<Peer>> peers;
};

TEST(SimNetwork, AMessageTakesItsBytesOverTheBandwidthPlusTheLatency) {
  Job job({.size = 2, .link = {.latency = absl::Microseconds(100), .bytes_per_s = 1e6}});
  job.Send(0, 1, 1000);
  job.Send(0, 1, 2000);
  EXPECT_EQ(job.network.NextArrival() - job.network.Now(), absl::Microseconds(1100));
  ASSERT_TRUE(job.network.Step());
  job.PollAll();
  EXPECT_EQ(job.peers[1]->waiting(0), 1u);
  ASSERT_TRUE(job.network.Step());
  EXPECT_EQ(job.Elapsed(), absl::Microseconds(3100)) << "the second left when the first had";
  EXPECT_FALSE(job.network.Step());
}

TEST(SimNetwork, ASlowLinkSlowsOnlyItself) {
  Job job({.size = 3});
  job.network.SetLink(0, 1, {.latency = absl::Seconds(1)});
  job.Send(0, 1, 8);
  job.Send(0, 2, 8);
  job.network.Advance(absl::Milliseconds(1));
  job.PollAll();
  EXPECT_EQ(job.peers[2]->waiting(0), 1u);
  EXPECT_EQ(job.peers[1]->waiting(0), 0u);
}

TEST(SimNetwork, ACutLinkHoldsMessagesInOrderUntilItIsHealedAndTellsNobody) {
  Job job({.size = 2, .link = {.jitter = absl::Microseconds(500)}});
  for (int i = 0; i < 10; ++i) job.Send(0, 1, 8, absl::StrCat(i));
  job.network.Cut(0, 1);
  job.Send(0, 1, 8, "10");
  job.Send(1, 0, 8, "the other way");
  job.network.Advance(absl::Seconds(5));
  job.PollAll();
  EXPECT_EQ(job.peers[1]->waiting(0), 0u);
  EXPECT_TRUE(job.peers[1]->downs(0).empty());
  EXPECT_EQ(job.peers[0]->waiting(1), 1u) << "cut one way only";
  job.network.Heal(0, 1);
  EXPECT_EQ(job.network.NextArrival(), job.network.Now() + absl::Microseconds(50));
  job.RunToEnd();
  const auto got = job.peers[1]->Take(0, 11);
  for (int i = 0; i <= 10; ++i) EXPECT_EQ(got[i].header, absl::StrCat(i));
}

TEST(SimNetwork, AnIsolatedRankIsAloneUntilAllIsHealed) {
  Job job({.size = 3});
  job.network.Isolate(1);
  for (int from = 0; from < 3; ++from) {
    for (int to = 0; to < 3; ++to) job.Send(from, to, 1);
  }
  job.RunToEnd();
  for (int other : {0, 2}) {
    EXPECT_EQ(job.peers[1]->waiting(other), 0u);
    EXPECT_EQ(job.peers[other]->waiting(1), 0u);
  }
  EXPECT_EQ(job.peers[2]->waiting(0), 1u);
  EXPECT_EQ(job.peers[1]->waiting(1), 1u) << "to itself";
  job.network.HealAll();
  job.RunToEnd();
  EXPECT_EQ(job.peers[1]->waiting(0), 1u);
  EXPECT_EQ(job.peers[2]->waiting(1), 1u);
}

TEST(SimNetwork, AKilledRankIsReportedOnceAfterWhatStillArrives) {
  std::set<size_t> arrived;
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    Job job({.size = 3, .seed = seed, .death_report = absl::Milliseconds(7)});
    for (int i = 0; i < 5; ++i) job.Send(2, 0, 8, absl::StrCat(i));
    job.network.Kill(2);
    job.network.Kill(2);
    EXPECT_TRUE(job.network.transport(0).Send(2, {}).ok()) << "nobody knows yet";
    job.RunToEnd();
    EXPECT_EQ(job.Elapsed(), absl::Milliseconds(7) + absl::Microseconds(50));
    const size_t count = job.peers[0]->waiting(2);
    arrived.insert(count);
    const auto got = job.peers[0]->Take(2, count);
    for (size_t i = 0; i < count; ++i) EXPECT_EQ(got[i].header, absl::StrCat(i)) << "seed " << seed;
    for (int survivor : {0, 1}) {
      ASSERT_EQ(job.peers[survivor]->downs(2).size(), 1u);
      EXPECT_EQ(job.peers[survivor]->downs(2)[0].code(), absl::StatusCode::kUnavailable);
      EXPECT_EQ(job.network.transport(survivor).Send(2, {}).code(), absl::StatusCode::kUnavailable);
    }
    EXPECT_EQ(job.network.transport(2).Send(0, {}).code(), absl::StatusCode::kFailedPrecondition);
  }
  EXPECT_EQ(arrived.size(), 6u) << "over the seeds, none to all of the five";
}

TEST(SimNetwork, ABrokenConnectionIsReportedAtBothEndsThoughBothLive) {
  Job job({.size = 3});
  job.Send(0, 1, 8);
  job.network.Break(0, 1);
  job.network.Break(1, 0);
  job.RunToEnd();
  for (const auto& [one, other] : {std::pair(0, 1), std::pair(1, 0)}) {
    ASSERT_EQ(job.peers[one]->downs(other).size(), 1u);
    EXPECT_EQ(job.peers[one]->downs(other)[0].code(), absl::StatusCode::kUnavailable);
    EXPECT_EQ(job.peers[one]->waiting(other), 0u);
    EXPECT_EQ(job.network.transport(one).Send(other, {}).code(), absl::StatusCode::kUnavailable);
    EXPECT_TRUE(job.network.transport(one).Send(2, {}).ok());
  }
}

TEST(SimNetwork, TheSameSeedGivesTheSameHistory) {
  const auto history = [](uint64_t seed) {
    Job job({.size = 4, .seed = seed, .link = {.jitter = absl::Milliseconds(1), .bytes_per_s = 1e8}});
    std::mt19937_64 random(seed + 100);
    std::string out;
    for (int round = 0; round < 200; ++round) {
      const int from = random() % 4, to = random() % 4;
      if (round == 120) job.network.Kill(3);
      if (round % 40 == 10) job.network.CutBoth(0, 1);
      if (round % 40 == 30) job.network.HealAll();
      job.network.transport(from)
          .Send(to, {Channel::kQuery, absl::StrCat(round), std::string(random() % 5000, 'x')})
          .IgnoreError();
      if (round % 2 == 0) job.network.Step();
      job.PollAll();
      for (auto& peer : job.peers) {
        for (int i = 0; i < 4; ++i) {
          for (const Message& message : peer->Take(i, peer->waiting(i))) {
            absl::StrAppend(&out, absl::FormatDuration(job.Elapsed()), " ", i, ">", peer->rank(), " ",
                            message.header, "\n");
          }
        }
      }
    }
    return out;
  };
  EXPECT_GT(history(1).size(), 1000u);
  EXPECT_EQ(history(1), history(1));
  EXPECT_NE(history(1), history(2));
}

}  // namespace
}  // namespace lombard
