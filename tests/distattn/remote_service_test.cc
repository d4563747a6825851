// Goal: while own steps compute, a query is answered on credit alone, and KV passes it. Method: the test is
// the debtor and the step thread, over the loopback transport.
#include "distattn/remote_service.h"

#include <gtest/gtest.h>

#include <thread>

#include "distattn/wire.h"
#include "fabric/loopback_transport.h"

namespace lombard {
namespace {

constexpr int kHeadDim = 4;

class RemoteServiceTest : public testing::Test {
 protected:
  struct Received : TransportHandler {
    void OnMessage(int, Message message) override { channels.push_back(message.channel); }
    void OnPeerDown(int, const absl::Status&) override {}
    std::vector<Channel> channels;
  };

  void SetUp() override {
    transports_ = MakeLoopbackTransports(2);
    storage_ =
        *KvStorage::Create({.dtype = DType::kF32, .kv_heads = 1, .head_dim = kHeadDim, .block_tokens = 2},
                           /*layers=*/1, /*block_count=*/4);
    attention_ = std::make_unique<CpuSpanAttention>(AttentionShape{.q_heads = 1, .layer_windows = {0}},
                                                    CpuContext{Isa::kBase, nullptr}, storage_.get());
    service_ = std::make_unique<RemoteService>(
        RemoteService::Options{.q_heads = 1, .guard = 0.05}, storage_.get(), attention_.get(),
        transports_[0].get(), [](int, LoanId, uint64_t, bool) {
          return std::make_shared<const std::vector<BlockId>>(std::vector<BlockId>{BlockId{0}});
        });
    serving_ = std::thread([this] { service_->Serve(); });
  }
  void TearDown() override { EndService(); }
  // After this nothing is booked any more.
  void EndService() {
    service_->Stop();
    if (serving_.joinable()) serving_.join();
  }
  void SendQuery() {
    Message query{.channel = Channel::kQuery, .payload = std::string(kHeadDim * sizeof(float), '\0')};
    query.header = EncodeQuery({}, {{.rows = 1, .first_query_position = 2, .token_count = 2}});
    service_->Enqueue(1, std::move(query));
  }
  void SendRead() {
    service_->Enqueue(1, {.channel = Channel::kKv, .header = EncodeKv(WireKind::kKvRead, {.slot_count = 1})});
  }
  // The answers that come within the time, until there are `count`.
  std::vector<Channel> Answers(size_t count, absl::Duration wait) {
    Received received;
    for (const absl::Time end = absl::Now() + wait; received.channels.size() < count && absl::Now() < end;)
      transports_[1]->Poll(received, absl::Milliseconds(5));
    return received.channels;
  }

  std::vector<std::unique_ptr<Transport>> transports_;
  std::unique_ptr<KvStorage> storage_;
  std::unique_ptr<CpuSpanAttention> attention_;
  std::unique_ptr<RemoteService> service_;
  std::thread serving_;
};

TEST_F(RemoteServiceTest, AQueryWaitsForCreditAndKvPassesIt) {
  service_->OwnBegins();
  SendQuery();
  SendRead();
  EXPECT_EQ(Answers(1, absl::Seconds(10)), std::vector{Channel::kKv});  // though the query was there first
  service_->OwnEnds(0.1);
  EXPECT_EQ(Answers(1, absl::Seconds(10)), std::vector{Channel::kState});
  EndService();
  EXPECT_DOUBLE_EQ(service_->totals().starved, 0.1);
  EXPECT_GT(service_->totals().attended, 0);
}

TEST_F(RemoteServiceTest, AQueryIsAnsweredWhileTheOwnStepWaitsOrThereIsNone) {
  service_->OwnBegins();
  SendQuery();
  service_->OwnWaits(true);
  EXPECT_EQ(Answers(1, absl::Seconds(10)), std::vector{Channel::kState});
  service_->OwnWaits(false);
  SendQuery();
  service_->OwnIdle();
  EXPECT_EQ(Answers(1, absl::Seconds(10)), std::vector{Channel::kState});
  EndService();
  EXPECT_EQ(service_->totals().attended, 0);
}

}  // namespace
}  // namespace lombard
