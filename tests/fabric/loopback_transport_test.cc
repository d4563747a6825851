#include "fabric/loopback_transport.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "absl/time/clock.h"
#include "fabric/message_checks.h"
#include "tests/fabric/transport_ladder.h"

namespace lombard {
namespace {

using test::Peer;

std::vector<Transport*> Raw(const std::vector<std::unique_ptr<Transport>>& transports) {
  std::vector<Transport*> raw;
  for (const auto& transport : transports) raw.push_back(transport.get());
  return raw;
}

class LoopbackLadder : public testing::TestWithParam<std::tuple<int, test::Rung>> {};

TEST_P(LoopbackLadder, Holds) {
  const auto& [size, rung] = GetParam();
  const auto transports = MakeLoopbackTransports(size);
  test::OnThreads(Raw(transports), rung.climb);
}

INSTANTIATE_TEST_SUITE_P(, LoopbackLadder,
                         testing::Combine(testing::Values(1, 2, 4), testing::ValuesIn(test::Ladder())),
                         [](const auto& info) {
                           return std::string(std::get<1>(info.param).name) + "On" +
                                  std::to_string(std::get<0>(info.param));
                         });

TEST(Loopback, ADestroyedTransportIsALostPeer) {
  auto transports = MakeLoopbackTransports(3);
  Peer zero(*transports[0]), one(*transports[1]);
  transports[2]->Send(0, {Channel::kState, "sent before the loss", ""}).IgnoreError();
  transports[2].reset();
  for (Peer* peer : {&zero, &one}) {
    ASSERT_TRUE(peer->WaitUntil([&] { return !peer->downs(2).empty(); }));
    EXPECT_EQ(peer->downs(2)[0].code(), absl::StatusCode::kUnavailable);
    EXPECT_EQ(peer->transport().Send(2, {}).code(), absl::StatusCode::kUnavailable);
    EXPECT_EQ(peer->downs(2).size(), 1u);
  }
  zero.MustSend(1, Channel::kControl, "the rest goes on", "");
  EXPECT_EQ(one.Take(0, 1).size(), 1u);
}

TEST(Loopback, MovesThePayloadWithoutCopyingIt) {
  auto transports = MakeLoopbackTransports(2);
  Peer reader(*transports[1]);
  std::string payload(1 << 20, 'p');
  const char* bytes = payload.data();
  ASSERT_TRUE(transports[0]->Send(1, {Channel::kKv, "", std::move(payload)}).ok());
  const auto got = reader.Take(0, 1);
  ASSERT_EQ(got.size(), 1u);
  EXPECT_EQ(got[0].payload.data(), bytes);
}

TEST(Loopback, APollWithoutNewsWaitsAndOneWithNewsDoesNot) {
  auto transports = MakeLoopbackTransports(2);
  Peer reader(*transports[1], Peer::Polling::kInline);
  const absl::Time start = absl::Now();
  transports[1]->Poll(reader, absl::Milliseconds(30));
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(29));
  std::thread sender([&] {
    absl::SleepFor(absl::Milliseconds(20));
    transports[0]->Send(1, {}).IgnoreError();
  });
  transports[1]->Poll(reader, absl::InfiniteDuration());
  sender.join();
  EXPECT_EQ(reader.waiting(0), 1u);
}

TEST(MessageChecks, ALargePayloadIsRefusedWithTheLimit) {
  const Message message{Channel::kKv, "", std::string(kMessagePayloadBytesMax + 1, 'p')};
  const absl::Status status = CheckSend(message, 0, 1);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("at most 256"));
}

TEST(MessageChecks, AQueueForOnePeerIsBounded) {
  const Message message{Channel::kKv, "head", "body"};
  EXPECT_TRUE(CheckQueue(message, 1, 0).ok());
  EXPECT_TRUE(CheckQueue(message, 1, kSendQueueBytesMax - 8).ok());
  const absl::Status full = CheckQueue(message, 1, kSendQueueBytesMax - 7);
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace lombard
