// The ladder over UCX with several transports in one process, each polled by a thread of its own.
#include "fabric/ucx/ucx_transport.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <filesystem>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "fabric/ucx/job_address.h"
#include "fabric/ucx/link.h"
#include "tests/fabric/transport_ladder.h"

namespace lombard {
namespace {

using test::Peer;

// A profile and the transports it may use here.
struct Variant {
  const char* name;
  const char* profile;
  const char* tls;
};

UcxProfile MakeProfile(const Variant& variant) {
  UcxProfile profile = *ChooseUcxProfile(InspectUcxHost(/*single_host=*/true), variant.profile);
  std::map<std::string, std::string> config(profile.config.begin(), profile.config.end());
  config["TLS"] = variant.tls;
  config["NET_DEVICES"] = "lo";
  config["KEEPALIVE_INTERVAL"] = "300s";  // its timer would wake a transport that sleeps through its work
  profile.config.assign(config.begin(), config.end());
  return profile;
}

std::vector<std::unique_ptr<UcxTransport>> MakeConnected(const UcxProfile& profile, int size) {
  std::vector<std::unique_ptr<UcxTransport>> transports;
  std::vector<std::string> addresses;
  for (int i = 0; i < size; ++i) {
    auto transport = UcxTransport::Create(profile);
    if (!transport.ok()) {
      ADD_FAILURE() << transport.status();
      return {};
    }
    transports.push_back(*std::move(transport));
    addresses.push_back(transports[i]->address());
  }
  for (int i = 0; i < size; ++i) EXPECT_TRUE(transports[i]->Connect(i, addresses).ok());
  return transports;
}

std::vector<Transport*> Raw(const std::vector<std::unique_ptr<UcxTransport>>& transports) {
  std::vector<Transport*> raw;
  for (const auto& transport : transports) raw.push_back(transport.get());
  return raw;
}

constexpr Variant kVariants[] = {{"Shm", "tcp+shm", "self,posix,sysv"},
                                 {"Tcp", "tcp", "self,tcp"},
                                 {"Rendezvous", "rendezvous", "self,posix,sysv,cma,tcp"}};

class UcxLadder : public testing::TestWithParam<std::tuple<Variant, int, test::Rung>> {};

TEST_P(UcxLadder, Holds) {
  const auto& [variant, size, rung] = GetParam();
  const auto transports = MakeConnected(MakeProfile(variant), size);
  test::OnThreads(Raw(transports), rung.climb);
}

INSTANTIATE_TEST_SUITE_P(, UcxLadder,
                         testing::Combine(testing::ValuesIn(kVariants), testing::Values(2, 3),
                                          testing::ValuesIn(test::Ladder())),
                         [](const auto& info) {
                           return absl::StrCat(std::get<0>(info.param).name, std::get<1>(info.param),
                                               std::get<2>(info.param).name);
                         });

class UcxFaults : public testing::TestWithParam<Variant> {};
INSTANTIATE_TEST_SUITE_P(, UcxFaults, testing::ValuesIn(kVariants),
                         [](const auto& info) { return info.param.name; });

TEST_P(UcxFaults, WhatIsUnderWayToAPeerThatDoesNotReadStaysInTheWindow) {
  const UcxProfile profile = MakeProfile(GetParam());
  const auto transports = MakeConnected(profile, 2);
  ASSERT_EQ(transports.size(), 2u);
  Peer sender(*transports[0], Peer::Polling::kInline), reader(*transports[1], Peer::Polling::kInline);
  sender.MustSend(1, Channel::kControl, "first", "");  // nothing is under way before they are connected
  while (reader.waiting(0) == 0) {
    transports[0]->Poll(sender, absl::ZeroDuration());
    transports[1]->Poll(reader, absl::ZeroDuration());
  }
  constexpr int kMessages = 64;
  for (int i = 0; i < kMessages; ++i) sender.MustSend(1, Channel::kKv, "", std::string(1 << 20, 'k'));
  uint64_t largest = 0;
  const absl::Time start = absl::Now();
  while (largest <= profile.window_bytes / 2 || absl::Now() - start < absl::Milliseconds(200)) {
    transports[0]->Poll(sender, absl::Milliseconds(1));
    largest = std::max(largest, transports[0]->in_flight_bytes(1));
    EXPECT_LE(transports[0]->counters().payload_bytes[static_cast<int>(Channel::kKv)], profile.window_bytes);
  }
  EXPECT_LE(largest, profile.window_bytes);
  while (reader.waiting(0) < kMessages + 1) {
    transports[0]->Poll(sender, absl::ZeroDuration());
    transports[1]->Poll(reader, absl::ZeroDuration());
  }
}

TEST_P(UcxFaults, CloseTowardsAPeerThatDoesNotReadKeepsItsDeadline) {
  const auto transports = MakeConnected(MakeProfile(GetParam()), 2);
  ASSERT_EQ(transports.size(), 2u);
  Peer sender(*transports[0], Peer::Polling::kInline);
  for (int i = 0; i < 16; ++i) sender.MustSend(1, Channel::kKv, "", std::string(1 << 20, 'k'));
  transports[0]->Poll(sender, absl::Milliseconds(10));
  transports[0]->Close(absl::Milliseconds(300));  // the test's time limit ends one that waits for the peer
}

// All tcp connections of this process, as a network that resets them would.
void ResetConnections() {
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    const int fd = std::atoi(entry.path().filename().c_str());
    sockaddr_storage address;
    socklen_t length = sizeof(address);
    if (getpeername(fd, reinterpret_cast<sockaddr*>(&address), &length) == 0) shutdown(fd, SHUT_RDWR);
  }
}

TEST(UcxReconnect, ABrokenConnectionIsMadeAgain) {
  const auto transports = MakeConnected(MakeProfile(kVariants[1]), 3);
  ASSERT_EQ(transports.size(), 3u);
  std::vector<std::unique_ptr<Peer>> peers;
  for (const auto& transport : transports) peers.push_back(std::make_unique<Peer>(*transport));
  const auto exchange = [&](const std::string& what) {
    for (auto& from : peers) {
      for (int to = 0; to < 3; ++to) {
        if (to == from->rank()) continue;
        // A break may be noticed only now, or after the message left: then it is lost, and sent again.
        bool sent = false;
        size_t downs = 0;
        from->WaitUntil([&] {
          if (const size_t now = from->downs(to).size(); now != downs) downs = now, sent = false;
          sent = sent || from->transport().Send(to, {Channel::kKv, what, std::string(300000, 'k')}).ok();
          const size_t waiting = peers[to]->waiting(from->rank());
          if (waiting == 0) return false;
          for (const Message& m : peers[to]->Take(from->rank(), waiting)) {
            EXPECT_EQ(m.payload.size(), 300000u);
            if (m.header == what) return true;
          }
          sent = false;
          return false;
        });
      }
    }
  };
  exchange("before");
  for (int round = 0; round < 6; ++round) {
    SCOPED_TRACE(round);
    const int ups = peers[0]->ups(1), downs = static_cast<int>(peers[0]->downs(1).size());
    // Some rounds break it in the middle of traffic.
    for (int i = 0; i < 8 * (round % 2); ++i)
      peers[1]->transport().Send(0, {Channel::kKv, "lost perhaps", std::string(300000, 'k')}).IgnoreError();
    ResetConnections();
    peers[0]->WaitUntil(
        [&] { return peers[0]->ups(1) > ups && static_cast<int>(peers[0]->downs(1).size()) > downs; });
    exchange(absl::StrCat("round ", round));
    if (testing::Test::HasFailure()) break;
  }
  for (const auto& peer : peers) {
    for (int other = 0; other < 3; ++other) {
      const int ups = peer->ups(other);
      const auto downs = peer->downs(other);  // after ups: another break may come in between
      EXPECT_GE(static_cast<int>(downs.size()), ups);
      for (const absl::Status& why : downs) EXPECT_EQ(why.code(), absl::StatusCode::kUnavailable) << why;
    }
  }
}

TEST(UcxReconnect, AProcessThatJoinsTakesAPlaceAndTheOneBeforeItIsNotHeard) {
  const UcxProfile profile = MakeProfile(kVariants[1]);
  std::vector<std::unique_ptr<UcxTransport>> transports;
  std::vector<std::string> addresses;
  for (int i = 0; i < 4; ++i) {
    auto transport = UcxTransport::Create(profile);
    ASSERT_TRUE(transport.ok()) << transport.status();
    transports.push_back(*std::move(transport));
    addresses.push_back(transports[i]->address());
  }
  // Two start; two join one after the other, both as rank 2 of at most 3.
  const std::vector<std::string> first = {addresses[0], addresses[1]};
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(transports[i]->Connect(i, first, 3).ok());
  EXPECT_EQ(transports[0]->Send(2, {}).code(), absl::StatusCode::kUnavailable);
  Peer zero(*transports[0]), one(*transports[1]);
  FabricPlace place{.rank = 2,
                    .size_max = 3,
                    .generation = 2,
                    .job = JobFingerprint(first),
                    .members = {{0, kFirstGeneration, addresses[0]}, {1, kFirstGeneration, addresses[1]}}};
  ASSERT_TRUE(transports[2]->Join(place).ok());
  Peer joined(*transports[2]);
  ASSERT_TRUE(joined.WaitUntil([&] { return joined.ups(0) == 1 && joined.ups(1) == 1; }));
  joined.MustSend(0, Channel::kControl, "first", "");
  EXPECT_EQ(zero.TakeOne(2).header, "first");
  ASSERT_TRUE(one.WaitUntil([&] { return one.ups(2) == 1; }));
  one.MustSend(2, Channel::kControl, "hello", "");
  EXPECT_EQ(joined.TakeOne(1).header, "hello");

  place.generation = 3;
  ASSERT_TRUE(transports[3]->Join(place).ok());
  Peer later(*transports[3]);
  ASSERT_TRUE(later.WaitUntil([&] { return later.ups(0) == 1 && later.ups(1) == 1; }));
  later.MustSend(0, Channel::kControl, "second", "");
  EXPECT_EQ(zero.TakeOne(2).header, "second");
  EXPECT_EQ(zero.downs(2).size(), 1u);
  EXPECT_EQ(zero.ups(2), 2);
  // What the one before it says now is not heard.
  joined.transport().Send(0, {Channel::kControl, "ghost", ""}).IgnoreError();  // it may know that already
  absl::SleepFor(absl::Milliseconds(50));  // makes it likely that it would have come
  later.MustSend(0, Channel::kControl, "third", "");
  EXPECT_EQ(zero.TakeOne(2).header, "third");
}

TEST(Link, ProposalsMeetYieldAndGrowOld) {
  using Answer = Link::Answer;
  const absl::Time now = absl::UnixEpoch();
  const auto due = [](const Link& link) { return link.next_attempt(); };
  Link a, b;
  a.Start(1), b.Start(1);
  a.Broke(now), b.Broke(now);
  a.Attempt(due(a)), b.Attempt(due(b));
  EXPECT_EQ(a.connection(), b.connection());
  EXPECT_EQ(a.OnConnect(1, b.connection()), Answer::kMeet);
  EXPECT_EQ(a.OnConnect(1, b.connection()), Answer::kAgain);
  EXPECT_TRUE(b.Hears(a.connection())) << "what it says confirms it";
  EXPECT_TRUE(b.up());
  EXPECT_FALSE(b.Hears(0)) << "of the first connection";
  // One side alone sees a break, again and again: the other follows, whatever was in between.
  for (int i = 0; i < 3; ++i) {
    a.Broke(now);
    EXPECT_EQ(a.OnConnect(1, a.connection()), Answer::kNothing) << "an old proposal";
    const uint32_t before = a.connection();
    for (int tries = 0; tries < 3; ++tries) a.Attempt(due(a));  // nobody answers at first
    EXPECT_EQ(a.connection(), before + 1);
    EXPECT_EQ(b.OnConnect(1, a.connection()), Answer::kAccept);
    EXPECT_EQ(a.connection(), b.connection());
    EXPECT_TRUE(a.Hears(b.connection()));
  }
  // Backoff grows to its limit.
  absl::Duration last;
  for (int i = 0; i < 12; ++i) {
    a.Broke(now);
    last = due(a) - now;
  }
  EXPECT_EQ(last, Link::kBackoffMax);
  // Another process takes the place, and the one before is not heard.
  EXPECT_EQ(b.OnConnect(2, 1), Answer::kAccept);
  EXPECT_EQ(b.OnConnect(1, 99), Answer::kNothing);
  b.Ended();
  EXPECT_EQ(b.OnConnect(2, 2), Answer::kNothing);
  EXPECT_EQ(due(b), absl::InfiniteFuture());
  EXPECT_EQ(b.OnConnect(3, 1), Answer::kAccept);
}

TEST(UcxTransport, RefusesToConnectRanksOfDifferentProfiles) {
  auto one = UcxTransport::Create(MakeProfile(kVariants[1]));
  auto two = UcxTransport::Create(MakeProfile(kVariants[2]));
  ASSERT_TRUE(one.ok() && two.ok());
  const absl::Status status = (*one)->Connect(0, {(*one)->address(), (*two)->address()});
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()),
              testing::AllOf(testing::HasSubstr("rank 1 runs"), testing::HasSubstr("profile rendezvous"),
                             testing::HasSubstr("profile tcp"), testing::HasSubstr("--ucx-profile")));
}

}  // namespace
}  // namespace lombard
