// Goal: ranks that lend to each other exchange announced steps from all their threads at once, and a rank
// that dies in the middle of an exchange stops nobody. Method: progress, service and step threads of every
// rank over the loopback transport, streams of the emulated device, a fake NCCL; "attention" gives the query
// back.
#include <gtest/gtest.h>

#include <atomic>
#include <deque>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/device/gpu_memory.h"
#include "base/status.h"
#include "distattn/gpu_exchange.h"
#include "distattn/gpu_step_exchange.h"
#include "distattn/remote_service.h"
#include "fabric/loopback_transport.h"
#include "fabric/nccl/nccl_collectives.h"
#include "tests/emulation/emulated_device.h"
#include "tests/fabric/fake_nccl.h"

namespace lombard {
namespace {

constexpr int kLayers = 3, kDim = 4, kRowsMax = 3;
constexpr KvLayout kLayout{DType::kF32, 1, kDim, 2};
constexpr uint64_t kQueryBytes = kDim * sizeof(float), kStateBytes = (kDim + 2) * sizeof(float);  // of a row

// Sends every row back as its acc, and what it begins with as max and sum.
class Echo final : public AnnouncedAttention {
 public:
  explicit Echo(int rank)
      : query_(*DeviceMemory::Create(rank, kRowsMax * kQueryBytes)),
        states_(*DeviceMemory::Create(rank, kRowsMax * kStateBytes)),
        side_(*GpuStream::Create(rank)) {}
  absl::Status Prepare(absl::Span<const SpanQuery> queries) override {
    rows_ = static_cast<int>(queries.size());
    return rows_ <= kRowsMax ? absl::OkStatus() : absl::InternalError("too many rows");
  }
  absl::Status Submit(Collectives& collectives, LoanPair pair) override {
    const GpuExchangePart part{pair.debtor, query_.data(), rows_ * kQueryBytes, states_.data(),
                               rows_ * kStateBytes};
    return SubmitCreditorExchange(collectives, pair, part, kLayers, side_, [this](int) -> absl::Status {
      const float* const q = query_.data<float>();
      float *const acc = states_.data<float>(), *const max = acc + rows_ * kDim, *const sum = max + rows_;
      RETURN_IF_ERROR(side_.Copy(acc, q, rows_ * kQueryBytes));
      for (int row = 0; row < rows_; ++row)
        for (float* const to : {max, sum})
          RETURN_IF_ERROR(side_.Copy(to + row, q + row * kDim, sizeof(float)));
      return absl::OkStatus();
    });
  }
  absl::StatusOr<bool> Ended() override { return side_.IsDone(); }
  SpanAttention::Counts counts() const override { return {}; }
  double seconds() const override { return 100; }
  uint64_t state_bytes() const override { return kLayers * rows_ * kStateBytes; }

 private:
  int rows_ = 0;
  DeviceMemory query_, states_;
  GpuStream side_;
};

class Rank final : public TransportHandler {
 public:
  Rank(int rank, std::unique_ptr<Transport> transport)
      : transport_(std::move(transport)),
        main_(*GpuStream::Create(rank)),
        queries_(*DeviceMemory::Create(rank, kRowsMax * kQueryBytes)),
        states_(*DeviceMemory::Create(rank, kRowsMax * kStateBytes)),
        echo_(rank),
        storage_(*KvStorage::Create(kLayout, kLayers, 1)) {
    const GpuPlace place{"host", absl::StrCat(rank)};
    exchanger_ = std::make_unique<GpuExchanger>(
        GpuExchanger::Options{
            .place = place, .answer_wait = absl::Minutes(2), .open_again = absl::ZeroDuration()},
        MakeNcclCollectives(FakeNccl(),
                            {.rank = rank, .device = rank, .place = place, .call_timeout = absl::Minutes(2)},
                            &clock_),
        transport_.get(), &clock_);
    exchanges_ = std::make_unique<AnnouncedExchanges>(exchanger_.get(), &echo_);
    service_ = std::make_unique<RemoteService>(
        RemoteService::Options{.q_heads = 1}, storage_.get(), nullptr, transport_.get(),
        [](int, LoanId, uint64_t, bool) {
          return std::make_shared<const std::vector<BlockId>>(std::vector<BlockId>{BlockId{0}});
        },
        exchanges_.get());
    exchange_ = *GpuStepExchange::Create(exchanger_.get(), 1, kLayout, kLayers, &main_);
    serving_ = std::thread([this] { service_->Serve(); });
    progress_ = std::thread([this] {
      while (!stop_) transport_->Poll(*this, absl::Milliseconds(1));
    });
  }
  ~Rank() override { Die(); }

  // Its threads end, its connections break and its communicators with them.
  void Die() {
    service_->Stop();
    if (serving_.joinable()) serving_.join();
    stop_ = true;
    if (progress_.joinable()) progress_.join();
    transport_.reset();
  }

  void OnMessage(int from, Message message) override {
    const WireKind kind = *PeekKind(message.header);
    ForService(kind) ? service_->Enqueue(from, std::move(message)) : exchanger_->OnMessage(from, message);
  }
  void OnPeerDown(int peer, const absl::Status&) override { exchanger_->OnPeerLost(peer); }

  // One step with a row for each of `creditors`, given up after so many layers. `meanwhile` runs in the first
  // one. Whose states came, and whether they are right; nobody's when somebody was lost.
  std::map<int, bool> Step(
      const std::vector<int>& creditors, uint8_t stamp, int layers = kLayers,
      const std::function<void()>& meanwhile = [] {}) {
    const int rows = static_cast<int>(creditors.size());
    std::vector<LentRows> spans;
    for (int row = 0; row < rows; ++row) {
      spans.push_back({.span = {.creditor = creditors[row], .token_count = 2},
                       .first_row = row,
                       .rows = 1,
                       .first_query_position = 2,
                       .first_state = stamp % 2 == 0 ? row : rows - 1 - row});
    }
    CHECK(exchange_->Begin(stamp, &spans).ok());
    if (!exchange_->running()) return {};
    CHECK(main_.Fill(states_.data(), 0xff, states_.bytes()).ok());
    float *const acc = states_.data<float>(), *const max = acc + rows * kDim, *const sum = max + rows;
    const auto byte_of = [stamp](int layer, int row) {
      return static_cast<uint8_t>(stamp + layer + 50 * row);
    };
    for (int layer = 0; layer < layers; ++layer) {
      for (int row = 0; row < rows; ++row)
        CHECK(main_.Fill(queries_.data<char>() + row * kQueryBytes, byte_of(layer, row), kQueryBytes).ok());
      CHECK(exchange_->Send(queries_.data()).ok());
      if (layer == 0) meanwhile();
      CHECK(exchange_->Receive(acc, max, sum).ok());
    }
    if (!exchange_->End().ok() || layers < kLayers) return {};
    std::map<int, bool> right;
    for (const LentRows& lent : spans) {
      if (!lent.announced) continue;
      const auto is_right = [&](const float* first, int count) {
        const auto* const bytes = reinterpret_cast<const uint8_t*>(first);
        return std::all_of(bytes, bytes + count * sizeof(float),
                           [&](uint8_t byte) { return byte == byte_of(kLayers - 1, lent.first_row); });
      };
      const int state = lent.first_state;
      const bool all =
          is_right(acc + state * kDim, kDim) && is_right(max + state, 1) && is_right(sum + state, 1);
      right[lent.span.creditor] = all && right.try_emplace(lent.span.creditor, true).first->second;
    }
    return right;
  }
  RemoteService& service() { return *service_; }
  GpuExchanger::Counters counters() const { return exchanger_->counters(); }
  uint64_t asked() const { return counters().exchanges + counters().not_accepted; }

 private:
  const MonotonicClock clock_;
  std::unique_ptr<Transport> transport_;
  GpuStream main_;
  DeviceMemory queries_, states_;
  Echo echo_;
  std::unique_ptr<KvStorage> storage_;
  std::unique_ptr<GpuExchanger> exchanger_;  // goes before the streams: it aborts what waits in them
  std::unique_ptr<AnnouncedExchanges> exchanges_;
  std::unique_ptr<RemoteService> service_;
  std::unique_ptr<GpuStepExchange> exchange_;
  std::atomic<bool> stop_{false};
  std::thread serving_, progress_;
};

class ExchangeThreadsTest : public testing::TestWithParam<int> {
 protected:
  void SetUp() override { emulation::SetPatienceMs(600'000); }
  void TearDown() override { emulation::SetPatienceMs(2000); }
  void Make(int count) {
    auto transports = MakeLoopbackTransports(count);
    for (int rank = 0; rank < count; ++rank) ranks_.emplace_back(rank, std::move(transports[rank]));
  }

  const emulation::ScopedSeed seed_{static_cast<uint64_t>(GetParam())};
  const FakeNcclConnects connects_;
  std::deque<Rank> ranks_;
};

TEST_P(ExchangeThreadsTest, RanksThatLendToEachOtherAllComeToTheirEnd) {
  for (const int count : {2, 3}) {
    ranks_.clear();
    Make(count);
    std::vector<std::thread> steps;
    std::vector<std::vector<int>> creditors(count);
    std::vector<int> wrong(count, 0);
    for (int rank = 0; rank < count; ++rank) {
      for (int other = 0; other < count; ++other)
        if (other != rank) creditors[rank].push_back(other);
      creditors[rank].push_back(creditors[rank][0]);  // two rows for one of them
      steps.emplace_back([&, rank] {
        for (uint8_t stamp = 0; ranks_[rank].asked() < 300; ++stamp) {
          const int layers = stamp % 4 == 3 ? 1 : kLayers;  // some are given up
          for (const auto& [creditor, right] : ranks_[rank].Step(creditors[rank], stamp, layers))
            wrong[rank] += !right;
        }
      });
    }
    for (std::thread& thread : steps) thread.join();
    for (int rank = 0; rank < count; ++rank) {
      // Now that it is alone, everybody says yes.
      std::map<int, bool> done;
      while (static_cast<int>(done.size()) < count - 1) done = ranks_[rank].Step(creditors[rank], 9);
      for (const auto& [creditor, right] : done) EXPECT_TRUE(right) << rank << ", " << creditor;
      EXPECT_EQ(wrong[rank], 0) << rank;
      EXPECT_EQ(ranks_[rank].counters().pairs_closed, 0u) << rank;
    }
  }
}

TEST_P(ExchangeThreadsTest, WhatTheGpuAttendsForOthersIsBookedWithTheGuard) {
  Make(2);
  RemoteService& creditor = ranks_[1].service();
  std::map<int, bool> done;
  while (done.empty()) done = ranks_[0].Step({1}, 1);
  creditor.OwnBegins();
  done.clear();
  while (done.empty()) {  // the first one may be booked only now
    creditor.OwnEnds(20);
    creditor.OwnBegins();
    done = ranks_[0].Step({1}, 2);
  }
  EXPECT_TRUE(ranks_[0].Step({1}, 3).empty()) << "it has used its credit up";
  while (creditor.totals().attended < 100) std::this_thread::yield();
  EXPECT_TRUE(ranks_[0].Step({1}, 4).empty());
  creditor.OwnIdle();
  done.clear();
  while (done.empty()) done = ranks_[0].Step({1}, 5);
  EXPECT_EQ(done, (std::map<int, bool>{{1, true}}));
}

TEST_P(ExchangeThreadsTest, AStepWhoseCreditorDiesInTheMiddleEndsAndTheNextGoesOnWithTheOther) {
  Make(3);
  const auto exchange_with = [&](size_t creditors) {  // until so many have said yes
    std::map<int, bool> done;
    while (done.size() < creditors) done = ranks_[0].Step({1, 2}, 7);
    return done;
  };
  EXPECT_EQ(exchange_with(2), (std::map<int, bool>{{1, true}, {2, true}}));
  const std::map<int, bool> done = ranks_[0].Step({1, 2}, 9, kLayers, [&] {
    KillFakeNcclRank(1, /*noticed=*/false);
    ranks_[1].Die();
  });
  EXPECT_TRUE(done.empty()) << "the step runs again";
  EXPECT_EQ(exchange_with(1), (std::map<int, bool>{{2, true}}));
}

INSTANTIATE_TEST_SUITE_P(Seeds, ExchangeThreadsTest, testing::Range(1, 5));

}  // namespace
}  // namespace lombard
