// The ladder over UCX with several transports in one process, each polled by a thread of its own.
#include "fabric/ucx/ucx_transport.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
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
  Peer sender(*transports[0], Peer::Polling::kInline);
  constexpr int kMessages = 64;
  for (int i = 0; i < kMessages; ++i) sender.MustSend(1, Channel::kKv, "", std::string(1 << 20, 'k'));
  uint64_t largest = 0;
  const absl::Time start = absl::Now();
  while (absl::Now() - start < absl::Milliseconds(200)) {
    transports[0]->Poll(sender, absl::Milliseconds(1));
    largest = std::max(largest, transports[0]->in_flight_bytes(1));
    EXPECT_LE(transports[0]->counters().payload_bytes[static_cast<int>(Channel::kKv)], profile.window_bytes);
  }
  EXPECT_LE(largest, profile.window_bytes);
  EXPECT_GT(largest, profile.window_bytes / 2);
  Peer reader(*transports[1], Peer::Polling::kInline);
  while (reader.waiting(0) < kMessages && absl::Now() - start < absl::Seconds(30)) {
    transports[0]->Poll(sender, absl::ZeroDuration());
    transports[1]->Poll(reader, absl::ZeroDuration());
  }
  EXPECT_EQ(reader.waiting(0), kMessages);
}

TEST_P(UcxFaults, CloseTowardsAPeerThatDoesNotReadKeepsItsDeadline) {
  const auto transports = MakeConnected(MakeProfile(GetParam()), 2);
  ASSERT_EQ(transports.size(), 2u);
  Peer sender(*transports[0], Peer::Polling::kInline);
  for (int i = 0; i < 16; ++i) sender.MustSend(1, Channel::kKv, "", std::string(1 << 20, 'k'));
  transports[0]->Poll(sender, absl::Milliseconds(10));
  const absl::Time start = absl::Now();
  transports[0]->Close(absl::Milliseconds(300));
  EXPECT_LT(absl::Now() - start, absl::Seconds(3));
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
