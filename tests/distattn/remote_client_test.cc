// Goal: whatever a creditor does not do, the client says who, and which loan when only that is refused; and
// every wait ends. Method: the test is the creditor, over the loopback transport.
#include "distattn/remote_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/time/clock.h"
#include "distattn/wire.h"
#include "fabric/loopback_transport.h"
#include "kvpool/kv_storage.h"

namespace lombard {
namespace {

constexpr int kHeadDim = 4;

class RemoteClientTest : public testing::Test {
 protected:
  struct Received : TransportHandler {
    void OnMessage(int from, Message message) override { messages.emplace_back(from, std::move(message)); }
    void OnPeerDown(int, const absl::Status&) override {}
    std::vector<std::pair<int, Message>> messages;
  };

  void SetUp() override {
    transports_ = MakeLoopbackTransports(3);
    storage_ =
        *KvStorage::Create({.dtype = DType::kF32, .kv_heads = 1, .head_dim = kHeadDim, .block_tokens = 2},
                           /*layers=*/1, /*block_count=*/4);
    MakeClient(absl::Hours(1));
  }
  void MakeClient(absl::Duration reply_deadline) {
    client_ = std::make_unique<RemoteClient>(
        RemoteClient::Options{.reply_deadline = reply_deadline, .on_transfer = {}}, /*q_heads=*/1,
        transports_[0].get(), storage_.get());
  }

  // One row for each (creditor, loan).
  absl::Status Post(const std::vector<std::pair<int, LoanId>>& spans) {
    std::vector<RemoteItem> items;
    q_.assign(kHeadDim, 1), acc_.assign(spans.size() * kHeadDim, 0);
    max_.assign(spans.size(), 0), sum_.assign(spans.size(), 0);
    for (size_t i = 0; i < spans.size(); ++i) {
      items.push_back({.creditor = spans[i].first,
                       .loan = spans[i].second,
                       .token_count = 2,
                       .rows = 1,
                       .q = q_.data(),
                       .state = {absl::MakeSpan(acc_).subspan(i * kHeadDim, kHeadDim),
                                 absl::MakeSpan(max_).subspan(i, 1), absl::MakeSpan(sum_).subspan(i, 1)}});
    }
    return client_->Post(1, 0, 0, items);
  }

  KvSend Send(uint64_t transfer, int creditor, LoanId loan) {
    return {.transfer = transfer, .creditor = creditor, .loan = loan, .blocks = {BlockId{0}}};
  }

  // The next message that reached `rank`.
  Message Take(int rank) {
    Received received;
    for (int i = 0; i < 100 && received.messages.empty(); ++i)
      transports_[rank]->Poll(received, absl::Milliseconds(10));
    EXPECT_EQ(received.messages.size(), 1u);
    return std::move(received.messages.at(0).second);
  }

  Message State(const Message& query, absl::StatusCode code, uint32_t refused_item = 0) {
    QueryHeader header;
    std::vector<QueryItem> items;
    EXPECT_TRUE(DecodeQuery(query.header, &header, &items).ok());
    Message answer{.channel = Channel::kState};
    answer.header = EncodeState({.exchange = header.exchange,
                                 .part = header.part,
                                 .code = static_cast<uint32_t>(code),
                                 .refused_item = refused_item},
                                "why");
    if (code == absl::StatusCode::kOk)
      answer.payload.assign(items.size() * (kHeadDim + 2) * sizeof(float), 0);
    return answer;
  }

  std::vector<std::unique_ptr<Transport>> transports_;
  std::unique_ptr<KvStorage> storage_;
  std::unique_ptr<RemoteClient> client_;
  std::vector<float> q_, acc_, max_, sum_;
};

TEST_F(RemoteClientTest, ARefusedQueryNamesTheLoan) {
  ASSERT_TRUE(Post({{1, LoanId{10}}, {1, LoanId{11}}, {2, LoanId{20}}}).ok());
  client_->OnMessage(1, State(Take(1), absl::StatusCode::kNotFound, 1));
  client_->OnMessage(2, State(Take(2), absl::StatusCode::kOk));
  EXPECT_TRUE(absl::IsNotFound(client_->Wait()));
  const auto failures = client_->TakeFailures();
  ASSERT_EQ(failures.size(), 1u);
  EXPECT_EQ(failures[0].creditor, 1);
  EXPECT_EQ(failures[0].loan, LoanId{11});
  EXPECT_TRUE(client_->TakeFailures().empty());
}

TEST_F(RemoteClientTest, ARefusalForAnotherReasonNamesTheCreditor) {
  ASSERT_TRUE(Post({{1, LoanId{10}}}).ok());
  client_->OnMessage(1, State(Take(1), absl::StatusCode::kInvalidArgument));
  EXPECT_FALSE(client_->Wait().ok());
  const auto failures = client_->TakeFailures();
  ASSERT_EQ(failures.size(), 1u);
  EXPECT_EQ(failures[0].loan, std::nullopt);
}

TEST_F(RemoteClientTest, SilenceEndsTheWaitAndNamesWhoIsSilent) {
  MakeClient(absl::Milliseconds(50));
  ASSERT_TRUE(Post({{1, LoanId{10}}, {2, LoanId{20}}}).ok());
  client_->OnMessage(1, State(Take(1), absl::StatusCode::kOk));
  EXPECT_TRUE(absl::IsDeadlineExceeded(client_->Wait()));
  const auto failures = client_->TakeFailures();
  ASSERT_EQ(failures.size(), 1u);
  EXPECT_EQ(failures[0].creditor, 2);
  // The answer comes late, to nobody.
  client_->OnMessage(2, State(Take(2), absl::StatusCode::kOk));
  EXPECT_EQ(client_->stale_messages(), 1u);
}

TEST_F(RemoteClientTest, WhoIsDeclaredLostFailsWhatWaitsForItNow) {
  ASSERT_TRUE(Post({{1, LoanId{10}}}).ok());
  client_->OnPeerLost(2, absl::UnavailableError("lost"));
  client_->OnPeerLost(1, absl::UnavailableError("lost"));
  EXPECT_TRUE(absl::IsUnavailable(client_->Wait()));
  const auto failures = client_->TakeFailures();
  ASSERT_EQ(failures.size(), 1u);
  EXPECT_EQ(failures[0].creditor, 1);
  EXPECT_TRUE(Post({{1, LoanId{10}}}).ok()) << "its next incarnation is asked over the same connection";
}

TEST_F(RemoteClientTest, ALostPeerFailsWhatWaitsForItUntilItIsBack) {
  ASSERT_TRUE(Post({{1, LoanId{10}}}).ok());
  client_->SendKv(Send(1, 1, LoanId{10}), 0);
  client_->SendKv(Send(2, 2, LoanId{20}), 0);
  client_->OnPeerDown(1, absl::UnavailableError("cut"));
  EXPECT_TRUE(absl::IsUnavailable(client_->Wait()));
  EXPECT_TRUE(absl::IsUnavailable(client_->transfer(1).status));
  EXPECT_FALSE(client_->transfer(2).done());
  const auto failures = client_->TakeFailures();
  ASSERT_EQ(failures.size(), 1u);  // once, though two things failed
  EXPECT_EQ(failures[0].creditor, 1);

  EXPECT_TRUE(absl::IsUnavailable(Post({{1, LoanId{10}}})));
  EXPECT_EQ(client_->TakeFailures().size(), 1u);
  client_->SendKv(Send(3, 1, LoanId{10}), 0);
  EXPECT_TRUE(absl::IsUnavailable(client_->transfer(3).status));
  client_->OnPeerUp(1);
  EXPECT_TRUE(Post({{1, LoanId{10}}}).ok());
}

TEST_F(RemoteClientTest, ARefusedTransferIsDone) {
  const auto ack = [&](uint64_t transfer, absl::StatusCode code) {
    Message message{.channel = Channel::kKv};
    message.header = EncodeKvAck({.transfer = transfer, .code = static_cast<uint32_t>(code)}, "why");
    return message;
  };
  for (const uint64_t transfer : {1, 2}) client_->SendKv(Send(transfer, 1, LoanId{10 + transfer}), 0);
  client_->OnMessage(2, ack(1, absl::StatusCode::kOk));  // not from whom it was sent to
  EXPECT_FALSE(client_->transfer(1).done());
  client_->OnMessage(1, ack(1, absl::StatusCode::kOk));
  EXPECT_TRUE(client_->transfer(1).done() && client_->transfer(1).status.ok());
  client_->OnMessage(1, ack(2, absl::StatusCode::kNotFound));
  EXPECT_TRUE(absl::IsNotFound(client_->transfer(2).status));
  const auto failures = client_->TakeFailures();
  ASSERT_EQ(failures.size(), 1u);
  EXPECT_EQ(failures[0].loan, LoanId{12});
}

TEST_F(RemoteClientTest, AnUnansweredTransferIsDone) {
  MakeClient(absl::Milliseconds(50));
  client_->SendKv(Send(1, 1, LoanId{10}), 0);
  while (!client_->transfer(1).done()) absl::SleepFor(absl::Milliseconds(5));
  EXPECT_TRUE(absl::IsDeadlineExceeded(client_->transfer(1).status));
  const auto failures = client_->TakeFailures();
  ASSERT_EQ(failures.size(), 1u);
  EXPECT_EQ(failures[0].loan, std::nullopt);
}

TEST_F(RemoteClientTest, FetchedKvIsWrittenUntilTheTransferIsForgotten) {
  const size_t block_bytes = static_cast<size_t>(storage_->layout().block_bytes());
  const auto fetch = [&](uint64_t transfer) {
    client_->FetchKv({.transfer = transfer,
                      .creditor = 1,
                      .loan = LoanId{10},
                      .first_slot = 3,
                      .blocks = {BlockId{2}, BlockId{0}}},
                     0);
  };
  const auto data = [&](uint64_t transfer, char first, size_t bytes, uint32_t slot = 3) {
    Message message{.channel = Channel::kKv};
    message.header = EncodeKv(WireKind::kKvData, {.transfer = transfer, .first_slot = slot, .slot_count = 2});
    for (size_t i = 0; i < bytes; ++i) message.payload.push_back(static_cast<char>(first + i / block_bytes));
    return message;
  };
  fetch(1);
  KvHeader asked;
  ASSERT_TRUE(DecodeKv(WireKind::kKvRead, Take(1).header, &asked).ok());
  EXPECT_EQ(asked.first_slot, 3u);
  EXPECT_EQ(asked.slot_count, 2u);
  EXPECT_FALSE(client_->transfer(1).done());
  client_->OnMessage(1, data(1, 'a', 4 * block_bytes));
  EXPECT_TRUE(client_->transfer(1).done() && client_->transfer(1).status.ok());
  EXPECT_EQ(static_cast<char>(*storage_->k(0, BlockId{2})), 'a');
  EXPECT_EQ(static_cast<char>(*storage_->v(0, BlockId{0})), 'd');

  fetch(2);
  client_->ForgetTransfer(2);
  client_->OnMessage(1, data(2, 'p', 4 * block_bytes));
  EXPECT_EQ(static_cast<char>(*storage_->k(0, BlockId{2})), 'a');
  EXPECT_EQ(client_->stale_messages(), 1u);

  fetch(3);
  client_->OnMessage(1, data(3, 'x', 4 * block_bytes - 1));
  EXPECT_FALSE(client_->transfer(3).status.ok());
  fetch(4);
  client_->OnMessage(1, data(4, 'x', 4 * block_bytes, /*slot=*/2));
  EXPECT_FALSE(client_->transfer(4).status.ok());
  EXPECT_EQ(static_cast<char>(*storage_->k(0, BlockId{2})), 'a');
  EXPECT_EQ(client_->TakeFailures().size(), 1u);
}

}  // namespace
}  // namespace lombard
