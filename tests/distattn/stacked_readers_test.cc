// Goal: what several debtors wait to read of one prefix, in one layer, is one product that gives each of them
// what float64 gives; whatever reads something else, or would make the slice too large, is left for later.
// Method: queries come while the creditor's own step has no credit for them; then it waits, and all that are
// there may be served. Tolerance: of a score, (d + 2) 2^-24 times the sum of its terms' magnitudes, e; of the
// output, expm1(2 e) times the largest |v|, plus 1e-5 of it for exp and sums.
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <thread>

#include "distattn/remote_service.h"
#include "distattn/wire.h"
#include "fabric/loopback_transport.h"
#include "tests/kernels/reference.h"

namespace lombard {
namespace {

constexpr int kBlock = 16, kHeads = 8, kKvHeads = 2, kHeadDim = 64, kLayers = 2, kDebtors = 3;
constexpr int kRowFloats = kHeads * kHeadDim;
constexpr float kScale = 0.125f;

std::vector<BlockId> Blocks(uint32_t first, uint32_t count) {
  std::vector<BlockId> blocks;
  for (uint32_t i = 0; i < count; ++i) blocks.push_back(BlockId{first + i});
  return blocks;
}

class StackedReadersTest : public testing::Test {
 protected:
  // Of one loan, from its first slot on.
  struct Item {
    uint64_t loan;
    int rows;
    std::optional<int> first_query_position = {};  // behind the span otherwise
  };
  struct Asked {
    int debtor;
    uint32_t layer;
    std::vector<Item> items;
    std::vector<float> q;
  };
  struct Received : TransportHandler {
    void OnMessage(int, Message message) override { answers.push_back(std::move(message)); }
    void OnPeerDown(int, const absl::Status&) override {}
    std::vector<Message> answers;
  };

  void SetUp() override {
    transports_ = MakeLoopbackTransports(1 + kDebtors);
    storage_ = *KvStorage::Create(
        {.dtype = DType::kF32, .kv_heads = kKvHeads, .head_dim = kHeadDim, .block_tokens = kBlock}, kLayers,
        32);
    for (int layer = 0; layer < kLayers; ++layer) {
      for (uint32_t block = 0; block < 32; ++block) {
        for (std::byte* bytes : {storage_->k(layer, BlockId{block}), storage_->v(layer, BlockId{block})}) {
          auto* values = reinterpret_cast<float*>(bytes);
          for (int64_t i = 0; i < storage_->layout().block_elements(); ++i) values[i] = normal_(random_);
        }
      }
    }
    attention_ = std::make_unique<CpuSpanAttention>(
        AttentionShape{.q_heads = kHeads, .scale = kScale, .layer_windows = {0, 0}},
        CpuContext{DetectIsa(), nullptr}, storage_.get());
    service_ = std::make_unique<RemoteService>(
        RemoteService::Options{.q_heads = kHeads, .guard = 0.05}, storage_.get(), attention_.get(),
        transports_[0].get(),
        [this](int debtor, LoanId id, uint64_t,
               bool) -> absl::StatusOr<std::shared_ptr<const std::vector<BlockId>>> {
          const auto loan = loans_.find({debtor, Value(id)});
          if (loan == loans_.end()) return absl::NotFoundError("no such loan");
          return std::make_shared<const std::vector<BlockId>>(loan->second);
        });
    service_->OwnBegins();  // nothing is attended before OwnWaits
    serving_ = std::thread([this] { service_->Serve(); });
  }
  void TearDown() override {
    service_->Stop();
    serving_.join();
  }

  void Ask(int debtor, uint32_t layer, std::vector<Item> items) {
    Asked asked{.debtor = debtor, .layer = layer, .items = std::move(items), .q = {}};
    std::vector<QueryItem> wire;
    for (const Item& item : asked.items) {
      const auto loan = loans_.find({debtor, item.loan});
      const int tokens = kBlock * (loan == loans_.end() ? 1 : static_cast<int>(loan->second.size()));
      wire.push_back({.loan = item.loan,
                      .rows = static_cast<uint32_t>(item.rows),
                      .first_query_position = item.first_query_position.value_or(tokens + 3),
                      .token_count = tokens});
      for (int i = 0; i < item.rows * kRowFloats; ++i) asked.q.push_back(normal_(random_));
    }
    Message query{.channel = Channel::kQuery,
                  .header = EncodeQuery({.exchange = asked_.size(), .step = 1, .layer = layer}, wire),
                  .payload = std::string(reinterpret_cast<const char*>(asked.q.data()),
                                         asked.q.size() * sizeof(float))};
    asked_.push_back(std::move(asked));
    service_->Enqueue(debtor, std::move(query));
  }

  // Lets all be served, and checks every answer.
  RemoteService::Counters Serve() {
    service_->OwnWaits(true);
    for (int debtor = 1; debtor <= kDebtors; ++debtor) {
      const auto is_of = [debtor](const Asked& asked) { return asked.debtor == debtor; };
      const size_t count = std::count_if(asked_.begin(), asked_.end(), is_of);
      Received received;
      for (const absl::Time end = absl::Now() + absl::Seconds(60);
           received.answers.size() < count && absl::Now() < end;)
        transports_[debtor]->Poll(received, absl::Milliseconds(5));
      EXPECT_EQ(received.answers.size(), count) << "debtor " << debtor;
      for (const Message& answer : received.answers) Check(debtor, answer);
    }
    return service_->counters();
  }

  void Check(int debtor, const Message& answer) {
    StateHeader header;
    std::string text;
    ASSERT_TRUE(DecodeState(answer.header, &header, &text).ok());
    ASSERT_LT(header.exchange, asked_.size());
    const Asked& asked = asked_[header.exchange];
    ASSERT_EQ(asked.debtor, debtor);
    if (header.code != 0) {
      ++refused_;
      return;
    }
    const auto* state = reinterpret_cast<const float*>(answer.payload.data());
    const float* q = asked.q.data();
    for (const Item& item : asked.items) {
      const std::vector<BlockId>& blocks = loans_.at({debtor, item.loan});
      const int tokens = static_cast<int>(blocks.size()) * kBlock;
      const float *acc = state, *max = acc + item.rows * kRowFloats, *sum = max + item.rows * kHeads;
      state = sum + item.rows * kHeads;
      for (int at = 0; at < item.rows * kHeads; ++at, q += kHeadDim) {
        const int kv_head = at % kHeads / (kHeads / kKvHeads);
        double value_max = 0;
        const auto value = [&](const std::byte* block, int t, int d) {
          return double{
              reinterpret_cast<const float*>(block)[(int64_t{kv_head} * kBlock + t % kBlock) * kHeadDim + d]};
        };
        const AttentionReference exact = AttentionOverSpan(
            q, kHeadDim, kScale, item.first_query_position.value_or(tokens) + at / kHeads, 0, 0, tokens,
            [&](int t, int d) { return value(storage_->k(asked.layer, blocks[t / kBlock]), t, d); },
            [&](int t, int d) {
              const double v = value(storage_->v(asked.layer, blocks[t / kBlock]), t, d);
              value_max = std::max(value_max, std::abs(v));
              return v;
            });
        const double error = (kHeadDim + 2) * std::ldexp(exact.score_magnitude, -24);
        ASSERT_NEAR(max[at] + std::log(sum[at]), exact.max + std::log(exact.sum), 2 * error + 1e-5);
        for (int d = 0; d < kHeadDim; ++d) {
          ASSERT_NEAR(acc[at * kHeadDim + d] / sum[at], exact.acc[d] / exact.sum,
                      (std::expm1(2 * error) + 1e-5) * value_max)
              << "exchange " << header.exchange << ", loan " << item.loan << ", row " << at / kHeads;
        }
      }
    }
  }

  std::mt19937 random_{23};
  std::normal_distribution<float> normal_;
  std::vector<std::unique_ptr<Transport>> transports_;
  std::unique_ptr<KvStorage> storage_;
  std::unique_ptr<CpuSpanAttention> attention_;
  std::map<std::pair<int, uint64_t>, std::vector<BlockId>> loans_;  // by debtor and id
  std::unique_ptr<RemoteService> service_;
  std::thread serving_;
  std::vector<Asked> asked_;  // by exchange
  int refused_ = 0;
};

TEST_F(StackedReadersTest, ReadersOfSeveralDebtorsAreOneProduct) {
  for (int debtor = 1; debtor <= kDebtors; ++debtor) loans_[{debtor, 7}] = Blocks(0, 10);
  loans_[{2, 8}] = Blocks(0, 10);  // each reader has a loan of its own
  Ask(1, 0, {{.loan = 7, .rows = 1}});
  Ask(2, 0, {{.loan = 7, .rows = 1}, {.loan = 8, .rows = 5}});
  Ask(3, 0, {{.loan = 7, .rows = 2}});
  const RemoteService::Counters served = Serve();
  EXPECT_EQ(served.queries, 9u);
  EXPECT_EQ(served.products, 1u) << "apart they are 3";
  EXPECT_EQ(served.keys, 10u * kBlock) << "apart they are read 3 times";
  EXPECT_EQ(served.steps, 3u);
}

TEST_F(StackedReadersTest, OnlyThoseOfOneLayer) {
  for (int debtor = 1; debtor <= 2; ++debtor) loans_[{debtor, 7}] = Blocks(0, 10);
  Ask(1, 0, {{.loan = 7, .rows = 1}});
  Ask(2, 1, {{.loan = 7, .rows = 1}});
  EXPECT_EQ(Serve().products, 2u);
}

TEST_F(StackedReadersTest, WhatReadsSomethingElseIsLeftInItsPlace) {
  loans_ = {{{1, 7}, Blocks(0, 10)},  {{2, 7}, Blocks(0, 10)}, {{2, 9}, Blocks(20, 3)},
            {{3, 7}, Blocks(10, 10)}, {{3, 8}, Blocks(0, 10)}, {{3, 9}, Blocks(0, 4)}};
  Ask(1, 0, {{.loan = 7, .rows = 1}});
  Ask(3, 0, {{.loan = 7, .rows = 1}});  // as long, but of other blocks
  Ask(3, 0, {{.loan = 9, .rows = 1}});  // a part of it
  Ask(3, 0, {{.loan = 8, .rows = 3, .first_query_position = 10 * kBlock - 2}});  // does not see all of it
  Ask(2, 0, {{.loan = 9, .rows = 2}, {.loan = 7, .rows = 1}});  // comes along with all that it asks for
  const RemoteService::Counters served = Serve();
  EXPECT_EQ(served.queries, 9u);
  EXPECT_EQ(served.products, 5u);
  EXPECT_EQ(served.keys, (10u + 10 + 4 + 10 + 3) * kBlock);
}

TEST_F(StackedReadersTest, OneThatIsRefusedHoldsNobodyUp) {
  loans_ = {{{1, 7}, Blocks(0, 1)}, {{3, 7}, Blocks(0, 1)}};
  Ask(1, 0, {{.loan = 7, .rows = 1}});
  Ask(2, 0, {{.loan = 7, .rows = 1}});  // has no such loan
  Ask(3, 0, {{.loan = 7, .rows = 1}});
  const RemoteService::Counters served = Serve();
  EXPECT_EQ(refused_, 1);
  EXPECT_EQ(served.refused, 1u);
  EXPECT_EQ(served.products, 1u);
}

TEST_F(StackedReadersTest, NoMoreThanASliceIsServedTogether) {
  constexpr int kRowBytes = kRowFloats * sizeof(float), kRowsMax = kQueryBytesMax / kRowBytes;
  for (int debtor = 1; debtor <= 3; ++debtor) loans_[{debtor, 7}] = Blocks(0, 2);
  Ask(1, 0, {{.loan = 7, .rows = kRowsMax / 2}});
  Ask(2, 0, {{.loan = 7, .rows = kRowsMax / 2 + 1}});  // one row too many
  Ask(3, 0, {{.loan = 7, .rows = kRowsMax / 2}});
  const RemoteService::Counters served = Serve();
  EXPECT_EQ(served.products, 2u);
  EXPECT_EQ(served.keys, 2u * 2 * kBlock);
}

}  // namespace
}  // namespace lombard
