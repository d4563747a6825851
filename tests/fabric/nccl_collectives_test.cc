// Goal: no traffic that keeps to the order of fabric/collectives.h makes ranks wait for each other, and a
// rank that is gone makes nobody wait. Method: ranks with lanes and streams of the emulated device exchange
// over a fake NCCL that is stricter than the real one, in orders drawn from seeds; the bytes are compared.
#include "fabric/nccl/nccl_collectives.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/device/gpu_memory.h"
#include "base/device/gpu_stream.h"
#include "base/status.h"
#include "fabric/exchange_lane.h"
#include "tests/emulation/emulated_device.h"
#include "tests/fabric/fake_nccl.h"

namespace lombard {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using State = ExchangeLane::State;

constexpr int kLayers = 3;
constexpr uint64_t kBytes = 64;                           // of a transfer
constexpr int kUntilAborted = 60'000, kAbortMs = 30'000;  // milliseconds; not reached
const absl::Time kStart = absl::UnixEpoch();

class StillClock final : public Clock {
 public:
  absl::Time Now() const override { return now += absl::Milliseconds(1); }
  mutable absl::Time now = kStart;
};

GpuPlace PlaceOf(int rank) { return {"host", absl::StrCat("0000:0", rank, ":00.0")}; }

struct Rank {
  Rank(int rank, const Clock* clock, int abort_ms = kAbortMs)
      : rank(rank),
        lane(rank),
        stream(*GpuStream::Create(rank)),
        // Of every pair with another rank, per layer: query, state.
        memory(*DeviceMemory::Create(rank, 8 * kLayers * 2 * kBytes)),
        collectives(MakeNcclCollectives(FakeNccl(),
                                        {.rank = rank,
                                         .device = rank,
                                         .place = PlaceOf(rank),
                                         .abort_timeout = absl::Milliseconds(abort_ms)},
                                        clock)) {}

  std::byte* At(int other, int layer, bool state) const {
    return memory.data<std::byte>() + ((other * kLayers + layer) * 2 + state) * kBytes;
  }

  int rank;
  ExchangeLane lane;
  GpuStream stream;
  DeviceMemory memory;
  std::unique_ptr<Collectives> collectives;
};

class NcclCollectivesTest : public testing::Test {
 protected:
  void SetUp() override { emulation::SetPatienceMs(30); }
  void TearDown() override {
    for (auto& rank : ranks_) rank.collectives.reset();  // so that no stream waits
    emulation::SetPatienceMs(2000);
  }

  void Make(int count, int abort_ms = kAbortMs) {
    for (int i = 0; i < count; ++i) ranks_.emplace_back(i, &clock_, abort_ms);
  }
  void Open(LoanPair pair) {
    Rank &debtor = ranks_[pair.debtor], &creditor = ranks_[pair.creditor];
    const std::string key = *debtor.collectives->NewKey();
    ASSERT_TRUE(debtor.collectives->Open(pair, key, PlaceOf(pair.creditor), kStart).ok());
    EXPECT_THAT(debtor.collectives->Poll(kStart), IsEmpty());
    EXPECT_FALSE(debtor.collectives->IsOpen(pair)) << "the other end is not there";
    ASSERT_TRUE(creditor.collectives->Open(pair, key, PlaceOf(pair.debtor), kStart).ok());
    for (Rank* rank : {&debtor, &creditor}) {
      EXPECT_THAT(rank->collectives->Poll(kStart), IsEmpty());
      EXPECT_TRUE(rank->collectives->IsOpen(pair));
    }
  }

  // A rank's part of one step, in the order of fabric/collectives.h. The creditor's "attention" adds nothing:
  // the state is the query that it got.
  absl::Status SubmitDebtor(Rank& self, const std::set<int>& creditors, uint8_t stamp) {
    for (int layer = 0; layer < kLayers; ++layer) {
      for (const int other : creditors) {
        RETURN_IF_ERROR(
            self.stream.Fill(self.At(other, layer, false), static_cast<uint8_t>(stamp + layer), kBytes));
        RETURN_IF_ERROR(self.collectives->Send({self.rank, other}, self.At(other, layer, false), kBytes,
                                               self.stream.ref()));
      }
      for (const int other : creditors)
        RETURN_IF_ERROR(self.collectives->Receive({self.rank, other}, self.At(other, layer, true), kBytes,
                                                  self.stream.ref()));
    }
    return absl::OkStatus();
  }
  absl::Status SubmitCreditor(Rank& self, int debtor) {
    for (int layer = 0; layer < kLayers; ++layer) {
      std::byte *const q = self.At(debtor, layer, false), *const state = self.At(debtor, layer, true);
      RETURN_IF_ERROR(self.collectives->Receive({debtor, self.rank}, q, kBytes, self.stream.ref()));
      RETURN_IF_ERROR(self.stream.Copy(state, q, kBytes));
      RETURN_IF_ERROR(self.collectives->Send({debtor, self.rank}, state, kBytes, self.stream.ref()));
    }
    return absl::OkStatus();
  }
  void ExpectStates(const Rank& self, const std::set<int>& creditors, uint8_t stamp) {
    for (const int other : creditors)
      for (int layer = 0; layer < kLayers; ++layer)
        EXPECT_EQ(static_cast<int>(*self.At(other, layer, true)), static_cast<uint8_t>(stamp + layer))
            << other;
  }

  StillClock clock_;
  std::deque<Rank> ranks_;
};

TEST_F(NcclCollectivesTest, CarriesAStepWithSeveralCreditors) {
  for (uint64_t seed = 0; seed < 10; ++seed) {
    const emulation::ScopedSeed scope(seed);
    ranks_.clear();
    Make(3);
    Open({0, 1});
    Open({0, 2});
    ASSERT_TRUE(SubmitCreditor(ranks_[2], 0).ok());
    ASSERT_TRUE(SubmitCreditor(ranks_[1], 0).ok());
    ASSERT_TRUE(SubmitDebtor(ranks_[0], {1, 2}, 40).ok());
    ASSERT_TRUE(ranks_[0].stream.Synchronize().ok()) << "seed " << seed;
    ExpectStates(ranks_[0], {1, 2}, 40);
  }
}

// That the fake waits as the real one may; otherwise the tests below show nothing.
TEST_F(NcclCollectivesTest, WithoutLanesMutualLoansWaitForEachOtherUntilTheyAreClosed) {
  Make(2);
  Open({0, 1});
  Open({1, 0});
  GpuStream side[] = {*GpuStream::Create(0), *GpuStream::Create(1)};
  for (Rank& rank : ranks_) {
    ASSERT_TRUE(SubmitDebtor(rank, {1 - rank.rank}, 1).ok());
    std::swap(rank.stream, side[rank.rank]);  // serving has a stream of its own, and that does not help
    ASSERT_TRUE(SubmitCreditor(rank, 1 - rank.rank).ok());
  }
  EXPECT_THAT(std::string(side[0].Synchronize().message()), HasSubstr("nothing moves"));
  for (Rank& rank : ranks_) {
    rank.collectives->Close({0, 1});
    rank.collectives->Close({1, 0});
  }
  EXPECT_TRUE(ranks_[1].stream.Synchronize().ok());
}

// The first transfers connect, so neither end gets through without the other.
TEST_F(NcclCollectivesTest, ACreditorWhoseAnswerWaitsForItsPartIsNeverHeard) {
  const FakeNcclConnects connects;
  Make(2);
  Open({0, 1});
  const absl::Status alone = SubmitCreditor(ranks_[1], 0);  // and only then the answer, and the debtor's part
  EXPECT_EQ(alone.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(alone.message()), HasSubstr("ncclRecv was not accepted in 5s"));
  EXPECT_FALSE(ranks_[1].collectives->IsOpen({0, 1}));
}

TEST_F(NcclCollectivesTest, BothEndsThatSubmitAtOnceConnect) {
  struct : Clock {
    absl::Time Now() const override { return kStart; }  // for ever: whoever waits in vain fails by timeout
  } clock;
  const FakeNcclConnects connects;
  for (int rank = 0; rank < 3; ++rank) ranks_.emplace_back(rank, &clock);
  Open({0, 1});
  Open({0, 2});
  std::vector<std::thread> creditors;
  absl::Status served[3];
  for (const int rank : {1, 2})
    creditors.emplace_back([this, rank, &served] { served[rank] = SubmitCreditor(ranks_[rank], 0); });
  EXPECT_TRUE(SubmitDebtor(ranks_[0], {1, 2}, 70).ok());
  for (std::thread& creditor : creditors) creditor.join();
  EXPECT_TRUE(served[1].ok() && served[2].ok()) << served[1] << served[2];
  emulation::SetPatienceMs(2000);
  EXPECT_TRUE(ranks_[0].stream.Synchronize().ok());
  ExpectStates(ranks_[0], {1, 2}, 70);
  ranks_.clear();  // before the clock
}

struct Traffic {
  const char* name;
  std::vector<std::vector<int>> creditors;  // of each rank
  bool collective;                          // rank 0 also starts an all-reduce of all ranks
};

class TrafficTest : public NcclCollectivesTest, public testing::WithParamInterface<Traffic> {
 protected:
  enum Kind { kAsk, kYes, kNo, kBegin, kCancel };
  struct Envelope {
    Kind kind;
    ExchangeId id;
    bool collective;
  };

  void Run(uint64_t seed);
  void Deliver(int from, int to, const Envelope& envelope);
  void MayStart(Rank& self);
  void Say(int from, int to, const Envelope& envelope) { mail_[{from, to}].push_back(envelope); }
  absl::Status AllReduce(Rank& self) {
    float* const value = reduce_[self.rank].data<float>();
    RETURN_IF_ERROR(MakeGpuCurrent(self.rank));
    ncclResult_t result = nccl_.AllReduce(value, value + 1, 1, ncclFloat32, ncclSum, comms_[self.rank],
                                          static_cast<cudaStream_t>(self.stream.ref().handle));
    while (result == ncclInProgress) static_cast<void>(nccl_.CommGetAsyncError(comms_[self.rank], &result));
    return nccl_.ToStatus(result, "ncclAllReduce");
  }

  const NcclLibrary nccl_ = FakeNccl();
  std::vector<ncclComm_t> comms_;
  std::deque<DeviceMemory> reduce_;
  std::map<std::pair<int, int>, std::deque<Envelope>> mail_;  // ordered per pair of ranks
  std::vector<bool> submitted_, collective_;                  // of the exchange in a rank's lane
  std::vector<uint8_t> stamp_;
  int exchanges_ = 0, refused_ = 0, collectives_ = 0;
};

void TrafficTest::Deliver(int from, int to, const Envelope& envelope) {
  Rank& self = ranks_[to];
  switch (envelope.kind) {
    case kAsk: {
      const bool yes = self.lane.OnAsked(envelope.id);
      Say(to, from, {yes ? kYes : kNo, envelope.id, envelope.collective});
      if (yes) {
        collective_[to] = envelope.collective;
        submitted_[to] = !envelope.collective;
        if (!envelope.collective) {
          ASSERT_TRUE(SubmitCreditor(self, from).ok());
        }
      }
      break;
    }
    case kYes:
    case kNo:
      self.lane.OnAnswer(envelope.id, from, envelope.kind == kYes);
      refused_ += envelope.kind == kNo;
      MayStart(self);
      break;
    case kBegin:
      ASSERT_TRUE(AllReduce(self).ok());
      submitted_[to] = true;
      break;
    case kCancel:
      self.lane.Done();
      break;
  }
}

// When the last answer is in.
void TrafficTest::MayStart(Rank& self) {
  if (self.lane.state() != State::kRunning || submitted_[self.rank]) return;
  const std::set<int>& others = self.lane.participants();
  if (!collective_[self.rank]) {
    ASSERT_TRUE(SubmitDebtor(self, others, ++stamp_[self.rank]).ok());
    submitted_[self.rank] = true;
    return;
  }
  const bool all = others.size() + 1 == ranks_.size();
  for (const int other : others) Say(self.rank, other, {all ? kBegin : kCancel, self.lane.exchange(), true});
  if (!all) return self.lane.Done();
  ASSERT_TRUE(AllReduce(self).ok());
  submitted_[self.rank] = true;
}

void TrafficTest::Run(uint64_t seed) {
  const emulation::ScopedSeed scope(seed);
  std::mt19937_64 random(seed);
  const Traffic& traffic = GetParam();
  const int count = static_cast<int>(traffic.creditors.size());
  Make(count);
  for (int debtor = 0; debtor < count; ++debtor)
    for (const int creditor : traffic.creditors[debtor]) Open({debtor, creditor});
  ncclUniqueId id;
  ASSERT_EQ(nccl_.GetUniqueId(&id), ncclSuccess);
  comms_.assign(count, nullptr);
  for (int rank = 0; rank < count; ++rank) {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    ASSERT_TRUE(MakeGpuCurrent(rank).ok());
    ASSERT_EQ(nccl_.CommInitRankConfig(&comms_[rank], count, id, rank, &config), ncclInProgress);
    reduce_.push_back(*DeviceMemory::Create(rank, 2 * sizeof(float)));
    reduce_[rank].data<float>()[0] = 1.0f;
  }
  submitted_.assign(count, false), collective_.assign(count, false), stamp_.assign(count, 0);

  constexpr int kActions = 4000;
  for (int action = 0; action < 4 * kActions; ++action) {
    const int at = static_cast<int>(random() % count);
    Rank& self = ranks_[at];
    switch (random() % 3) {
      case 0: {  // a step begins
        const bool collective = traffic.collective && at == 0 && random() % 2 == 0;
        // A collective needs all lanes at once: seldom where loans are always wanted.
        if (action > kActions || (traffic.collective && !collective && random() % 16 != 0)) break;
        std::vector<int> others = traffic.creditors[at];
        if (collective) {
          others.clear();
          for (int other = 1; other < count; ++other) others.push_back(other);
        }
        if (const auto asked = self.lane.Ask(others, kStart); asked.has_value()) {
          collective_[at] = collective, submitted_[at] = false;
          for (const int other : others) Say(at, other, {kAsk, *asked, collective});
        }
        break;
      }
      case 1: {  // a message arrives
        const int from = static_cast<int>(random() % count);
        auto& queue = mail_[{from, at}];
        if (queue.empty()) break;
        const Envelope envelope = queue.front();
        queue.pop_front();
        Deliver(from, at, envelope);
        break;
      }
      case 2: {  // a rank looks at its stream
        const State state = self.lane.state();
        if ((state != State::kRunning && state != State::kServing) || !submitted_[at]) break;
        const auto done = self.stream.IsDone();
        ASSERT_TRUE(done.ok()) << done.status();
        if (!*done) break;
        if (collective_[at]) {
          EXPECT_EQ(reduce_[at].data<float>()[1], static_cast<float>(count));
          reduce_[at].data<float>()[1] = 0;
          collectives_ += at == 0;
        } else if (state == State::kRunning) {
          ExpectStates(self, self.lane.participants(), stamp_[at]);
          ++exchanges_;
        }
        submitted_[at] = false;
        self.lane.Done();
        break;
      }
    }
  }
  for (const Rank& rank : ranks_)
    EXPECT_EQ(rank.lane.state(), State::kFree) << "rank " << rank.rank << " waits for ever, seed " << seed;
  for (int rank = 0; rank < count; ++rank) {
    ASSERT_TRUE(MakeGpuCurrent(rank).ok());
    EXPECT_EQ(nccl_.CommAbort(comms_[rank]), ncclSuccess);
  }
  ranks_.clear(), reduce_.clear();
}

TEST_P(TrafficTest, EndsInEveryOrder) {
  for (uint64_t seed = 1; seed <= 12 && !HasFatalFailure(); ++seed) Run(seed);
  EXPECT_GT(exchanges_, 50);
  EXPECT_GT(refused_, 10);
  EXPECT_EQ(collectives_ > 20, GetParam().collective) << collectives_;
}

INSTANTIATE_TEST_SUITE_P(Ranks, TrafficTest,
                         testing::Values(Traffic{"mutual", {{1}, {0}}, false},
                                         Traffic{"ring", {{1}, {2}, {0}}, false},
                                         Traffic{"all_lend_to_all", {{1, 2}, {0, 2}, {0, 1}}, false},
                                         Traffic{"collective", {{1}, {2}, {0}}, true}),
                         [](const auto& info) { return info.param.name; });

TEST_F(NcclCollectivesTest, ADeadPeerThatNcclKnowsOfClosesThePair) {
  emulation::SetPatienceMs(kUntilAborted);
  Make(2);
  Open({0, 1});
  ASSERT_TRUE(SubmitDebtor(ranks_[0], {1}, 1).ok());
  KillFakeNcclRank(1, true);
  const auto closed = ranks_[0].collectives->Poll(kStart);
  ASSERT_EQ(closed.size(), 1);
  EXPECT_EQ(closed[0].pair, (LoanPair{0, 1}));
  EXPECT_EQ(closed[0].why.code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(ranks_[0].stream.Synchronize().ok()) << "the stream goes on";
  EXPECT_EQ(SubmitDebtor(ranks_[0], {1}, 1).code(), absl::StatusCode::kUnavailable);
}

TEST_F(NcclCollectivesTest, ADeadPeerThatNcclDoesNotKnowOfEndsWithCloseAndThePairOpensAgain) {
  emulation::SetPatienceMs(kUntilAborted);
  Make(2);
  Open({0, 1});
  ASSERT_TRUE(SubmitCreditor(ranks_[1], 0).ok());
  KillFakeNcclRank(0, false);
  EXPECT_THAT(ranks_[1].collectives->Poll(kStart), IsEmpty());
  EXPECT_FALSE(*ranks_[1].stream.IsDone());
  ranks_[1].collectives->Close({0, 1});
  EXPECT_TRUE(ranks_[1].stream.Synchronize().ok());

  ranks_[0].collectives =
      MakeNcclCollectives(FakeNccl(), {.rank = 0, .device = 0, .place = PlaceOf(0)}, &clock_);
  Open({0, 1});
  ASSERT_TRUE(SubmitCreditor(ranks_[1], 0).ok());
  ASSERT_TRUE(SubmitDebtor(ranks_[0], {1}, 9).ok());
  ASSERT_TRUE(ranks_[0].stream.Synchronize().ok());
  ExpectStates(ranks_[0], {1}, 9);
}

TEST_F(NcclCollectivesTest, ClosingAPairEndsTheWaitOfAnotherThreadForIt) {
  emulation::SetPatienceMs(kUntilAborted);
  const FakeNcclConnects connects;
  const MonotonicClock clock;
  Make(2);
  Open({0, 1});
  auto creditor = MakeNcclCollectives(
      FakeNccl(), {.rank = 0, .device = 0, .place = PlaceOf(0), .call_timeout = absl::InfiniteDuration()},
      &clock);
  const std::string key = *creditor->NewKey();
  ASSERT_TRUE(creditor->Open({1, 0}, key, PlaceOf(1), kStart).ok());
  ASSERT_TRUE(ranks_[1].collectives->Open({1, 0}, key, PlaceOf(0), kStart).ok());
  EXPECT_THAT(creditor->Poll(kStart), IsEmpty());
  absl::Status submitted;
  std::thread submits([&] {  // what its debtor never answers
    submitted = creditor->Receive({1, 0}, ranks_[0].At(1, 0, false), kBytes, ranks_[0].stream.ref());
  });
  while (*ranks_[0].stream.IsDone()) std::this_thread::yield();  // until it is there
  creditor->Close({1, 0});
  submits.join();
  EXPECT_EQ(submitted.code(), absl::StatusCode::kUnavailable) << submitted;
  EXPECT_TRUE(ranks_[0].stream.Synchronize().ok());
}

// Where an abort waits for the other's kernel.
TEST_F(NcclCollectivesTest, TwoPairsWithDeadPeersAreClosedOneAfterTheOther) {
  emulation::SetPatienceMs(kUntilAborted);
  Make(3);
  Open({0, 1});
  Open({0, 2});
  ASSERT_TRUE(SubmitDebtor(ranks_[0], {1, 2}, 1).ok());
  KillFakeNcclRank(1, false);
  KillFakeNcclRank(2, false);
  ranks_[0].collectives->Close({0, 1});
  EXPECT_THAT(ranks_[0].collectives->Poll(kStart), IsEmpty()) << "the other is closed by whoever wants it";
  ranks_[0].collectives->Close({0, 2});
  EXPECT_TRUE(ranks_[0].stream.Synchronize().ok()) << "the stream goes on";
}

TEST_F(NcclCollectivesTest, AnAbortThatHangsIsNotWaitedForForEver) {
  Make(2, /*abort_ms=*/1);
  Open({0, 1});
  auto hangs = std::make_unique<FakeNcclHangs>();
  ranks_[0].collectives->Close({0, 1});
  EXPECT_FALSE(ranks_[0].collectives->IsOpen({0, 1}));
  testing::internal::CaptureStderr();
  ranks_[0].collectives.reset();
  EXPECT_THAT(testing::internal::GetCapturedStderr(), HasSubstr("have not returned"));
}

TEST_F(NcclCollectivesTest, TwoRanksOnOneGpuAreRefused) {
  Make(2);
  const std::string key = *ranks_[0].collectives->NewKey();
  const absl::Status refused = ranks_[0].collectives->Open({0, 1}, key, PlaceOf(0), kStart);
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition) << refused;
  EXPECT_FALSE(ranks_[0].collectives->IsOpen({0, 1}));
  // And by NCCL itself, where the places hide it.
  auto other = MakeNcclCollectives(FakeNccl(), {.rank = 1, .device = 0, .place = PlaceOf(1)}, &clock_);
  ASSERT_TRUE(ranks_[0].collectives->Open({0, 1}, key, PlaceOf(1), kStart).ok());
  ASSERT_TRUE(other->Open({0, 1}, key, PlaceOf(0), kStart).ok());
  EXPECT_EQ(other->Poll(kStart).size(), 1);
  EXPECT_EQ(ranks_[0].collectives->Poll(kStart).size(), 1);
  EXPECT_FALSE(ranks_[0].collectives->IsOpen({0, 1}));
}

TEST_F(NcclCollectivesTest, AnEndThatDoesNotComeIsGivenUp) {
  Make(2);
  const std::string key = *ranks_[0].collectives->NewKey();
  EXPECT_EQ(ranks_[0].collectives->Open({0, 1}, "short", PlaceOf(1), kStart).code(),
            absl::StatusCode::kInvalidArgument);
  ASSERT_TRUE(ranks_[0].collectives->Open({0, 1}, key, PlaceOf(1), kStart).ok());
  EXPECT_EQ(ranks_[0].collectives->Open({0, 1}, key, PlaceOf(1), kStart).code(),
            absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(ranks_[0].collectives->Poll(kStart + absl::Seconds(29)), IsEmpty());
  const auto closed = ranks_[0].collectives->Poll(kStart + absl::Seconds(30));
  ASSERT_EQ(closed.size(), 1);
  EXPECT_EQ(closed[0].why.code(), absl::StatusCode::kDeadlineExceeded);
}

}  // namespace
}  // namespace lombard
