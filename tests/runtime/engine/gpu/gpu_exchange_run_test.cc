// Goal: loans between GPUs that exchange announced steps give the golden tokens, whoever says no, hangs or
// dies. Method: whole in-process clusters; each rank has a GPU of its own on the emulated device, and a fake
// NCCL that is stricter than the real one.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <future>

#include "absl/strings/str_cat.h"
#include "fabric/nccl/nccl_collectives.h"
#include "runtime/engine/cpu_compute.h"
#include "runtime/engine/gpu/gpu_compute.h"
#include "runtime/job/local_cluster.h"
#include "tests/emulation/emulated_device.h"
#include "tests/fabric/fake_nccl.h"
#include "tests/support/cluster_run.h"
#include "tests/support/golden_file.h"

namespace lombard {
namespace {

constexpr uint32_t kBlock = 16;  // tokens
constexpr double kGap = 0.001;   // tiny is fp32

// Stands between a rank and its NCCL: before the creditor's call of this number something happens to it.
class Trouble final : public Collectives {
 public:
  using Happens = std::function<bool(int call)>;  // false: the call is lost, as when the rank hangs
  Trouble(std::unique_ptr<Collectives> inner, Happens happens)
      : inner_(std::move(inner)), happens_(std::move(happens)) {}
  absl::StatusOr<std::string> NewKey() override { return inner_->NewKey(); }
  absl::Status Open(LoanPair pair, absl::string_view key, const GpuPlace& other, absl::Time now) override {
    return inner_->Open(pair, key, other, now);
  }
  bool IsOpen(LoanPair pair) const override { return inner_->IsOpen(pair); }
  absl::Status Send(LoanPair pair, const void* data, uint64_t bytes, GpuStreamRef stream) override {
    if (!happens_(++calls_)) return absl::OkStatus();
    return inner_->Send(pair, data, bytes, stream);
  }
  absl::Status Receive(LoanPair pair, void* data, uint64_t bytes, GpuStreamRef stream) override {
    if (!happens_(++calls_)) return absl::OkStatus();
    return inner_->Receive(pair, data, bytes, stream);
  }
  std::vector<Closed> Poll(absl::Time now) override { return inner_->Poll(now); }
  void Close(LoanPair pair) override { inner_->Close(pair); }

 private:
  const std::unique_ptr<Collectives> inner_;
  const Happens happens_;
  std::atomic<int> calls_{0};
};

class GpuExchangeRunTest : public testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    auto model = Model::Load(TestPath("tests/data/tiny"));
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
    auto tokenizer = Tokenizer::Load(TestPath("tests/data/tiny"));
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *std::move(tokenizer);
    auto gpu_model = GpuModel::Load(*model_, 0);
    ASSERT_TRUE(gpu_model.ok()) << gpu_model.status();
    gpu_model_ = *gpu_model;
    goldens_ = ReadGoldens(TestPath("tests/data/tiny-golden.json"));
    emulation::SetPatienceMs(120'000);  // what hangs is found by our own deadlines
  }
  void TearDown() override { emulation::SetPatienceMs(2000); }

  // trouble_ is asked about the calls of trouble_rank_.
  WorkerSettings Settings(std::vector<uint32_t> kv_blocks) {
    WorkerSettings settings = TestSettings(*model_, std::move(kv_blocks), kBlock);
    settings.engine.max_batch_tokens = 48;
    settings.guard = 1e6;
    settings.gpu_answer_wait = absl::Minutes(2);  // sanitizers and busy machines
    settings.compute = [this](const Model*, const KvLayout& layout, uint32_t blocks) {
      const MakeGpuExchangeEnd end = [this](int rank, const Clock* clock) {
        GpuExchangeEnd made{.place = {"host", same_gpu_ ? "0" : absl::StrCat(rank)}};
        made.collectives = MakeNcclCollectives(
            FakeNccl(), {.rank = rank, .device = rank, .place = made.place, .call_timeout = absl::Minutes(3)},
            clock);
        if (trouble_ && rank == trouble_rank_)
          made.collectives = std::make_unique<Trouble>(std::move(made.collectives), trouble_);
        return made;
      };
      return MakeGpuCompute(gpu_model_, {.rows_max = 48, .logits_max = 8, .exchange_end = end}, layout,
                            blocks);
    };
    return settings;
  }

  struct Wanted {
    int golden = 0, home = 0, wave = 0;
  };
  ClusterRun ExpectGoldens(const WorkerSettings& settings, const std::vector<Wanted>& wanted,
                           uint32_t max_tokens) {
    std::vector<TestSequence> sequences;
    for (const Wanted& one : wanted) {
      sequences.push_back({.prompt = goldens_[one.golden].prompt_ids,
                           .sampling = Greedy(max_tokens),
                           .home = InstanceId(one.home),
                           .wave = one.wave});
    }
    auto run = RunOnCluster(settings, *model_, *tokenizer_, sequences);
    EXPECT_TRUE(run.ok()) << run.status();
    if (!run.ok()) return {};
    EXPECT_TRUE(run->invariants.ok()) << run->invariants;
    for (size_t i = 0; i < wanted.size(); ++i) {
      EXPECT_TRUE(run->results[i].error.ok()) << run->results[i].error;
      GoldenCase golden = goldens_[wanted[i].golden];
      golden.greedy_ids.resize(max_tokens), golden.gaps.resize(max_tokens);
      EXPECT_EQ(GoldenMismatch(golden, run->results[i].token_ids, kGap), "") << i;
    }
    return *std::move(run);
  }

  const emulation::ScopedSeed seed_{static_cast<uint64_t>(GetParam())};
  const FakeNcclConnects connects_;
  bool same_gpu_ = false;
  int trouble_rank_ = 1;
  Trouble::Happens trouble_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::shared_ptr<const GpuModel> gpu_model_;
  std::vector<GoldenCase> goldens_;
};

uint64_t Sum(const ClusterRun& run, uint64_t GpuExchanger::Counters::*field) {
  uint64_t sum = 0;
  for (const GpuExchanger::Counters& counters : run.exchanges) sum += counters.*field;
  return sum;
}

TEST_P(GpuExchangeRunTest, LendsWithoutTheHostAndGivesTheGoldenTokens) {
  const ClusterRun run = ExpectGoldens(Settings({4, 12}), {{.golden = 4}}, 12);
  ASSERT_EQ(run.exchanges.size(), 2u);
  const GpuExchanger::Counters &debtor = run.exchanges[0], &creditor = run.exchanges[1];
  EXPECT_GT(debtor.exchanges, 3u);
  EXPECT_EQ(debtor.not_accepted + debtor.pairs_closed + creditor.pairs_closed, 0u);
  // Whichever way a row goes, it has the size of distattn/wire.h.
  const uint64_t heads = model_->config().q_heads, dim = model_->config().head_dim;
  const auto bytes = [&](int rank, Channel channel) {
    return run.reports[rank].payload_bytes(static_cast<int>(channel));
  };
  EXPECT_EQ(bytes(0, Channel::kQuery), run.services[1].queries * heads * dim * sizeof(float));
  EXPECT_EQ(bytes(1, Channel::kState), run.services[1].queries * heads * (dim + 2) * sizeof(float));
  EXPECT_EQ(debtor.query_bytes * (dim + 2), creditor.state_bytes * dim);
  EXPECT_GE(debtor.query_bytes, debtor.exchanges * model_->config().layers * heads * dim * sizeof(float));
  EXPECT_EQ(debtor.state_bytes + creditor.query_bytes, 0u);
  // What is lent does not change: some steps went over the transport, before the pair was open.
  EXPECT_GE(run.reports[0].remote_steps(), debtor.exchanges);
  EXPECT_EQ(run.services[1].steps, run.reports[0].remote_steps());
}

TEST_P(GpuExchangeRunTest, ExchangesWithTwoCreditorsAtOnceGiveTheGoldenTokens) {
  const ClusterRun run = ExpectGoldens(Settings({6, 10, 10}), {{.golden = 5}, {.golden = 1}}, 10);
  ASSERT_EQ(run.exchanges.size(), 3u);
  EXPECT_GT(run.exchanges[1].state_bytes, 0u);
  EXPECT_GT(run.exchanges[2].state_bytes, 0u);
}

TEST_P(GpuExchangeRunTest, SeveralSequencesGiveTheGoldenTokens) {
  const ClusterRun run = ExpectGoldens(Settings({8, 20}), {{.golden = 4}, {.golden = 3}, {.golden = 7}}, 10);
  ASSERT_EQ(run.exchanges.size(), 2u);
  EXPECT_GT(run.exchanges[0].exchanges, 0u);
}

// Prefixes that each rank reads at another while it lends its own: A <-> B, then a ring of three.
TEST_P(GpuExchangeRunTest, RingsOfLoansGiveTheGoldenTokensWhoeverIsToldNo) {
  constexpr int kGoldens[] = {4, 3, 7};
  for (const int ranks : {2, 3}) {
    std::vector<Wanted> wanted;
    for (int rank = 0; rank < ranks; ++rank) {
      wanted.push_back({.golden = kGoldens[rank], .home = rank, .wave = 0});
      wanted.push_back({.golden = kGoldens[rank], .home = (rank + 1) % ranks, .wave = 1});
    }
    WorkerSettings settings = Settings(std::vector<uint32_t>(ranks, 24));
    settings.engine.remote_prefix_min = kBlock, settings.engine.copy_prefixes = false;
    const ClusterRun run = ExpectGoldens(settings, wanted, 8);
    ASSERT_EQ(run.exchanges.size(), static_cast<size_t>(ranks));
    for (int rank = 0; rank < ranks; ++rank) {
      EXPECT_GT(run.reports[rank].remote_steps(), 0u) << rank << " of " << ranks;
      EXPECT_GT(run.services[rank].steps, 0u) << rank << " of " << ranks;
    }
    EXPECT_GT(Sum(run, &GpuExchanger::Counters::exchanges) + Sum(run, &GpuExchanger::Counters::not_accepted),
              0u);
  }
}

TEST_P(GpuExchangeRunTest, TwoRanksOnOneGpuUseTheTransport) {
  same_gpu_ = true;
  const ClusterRun run = ExpectGoldens(Settings({4, 12}), {{.golden = 4}}, 4);
  EXPECT_EQ(Sum(run, &GpuExchanger::Counters::exchanges), 0u);
  EXPECT_GT(run.services[1].queries, 0u);
}

TEST_P(GpuExchangeRunTest, ACreditorOnACpuIsAskedOnceAndUsesTheTransport) {
  WorkerSettings settings = Settings({4, 12});
  const MakeCompute gpu = settings.compute;
  settings.compute = [&](const Model* model, const KvLayout& layout,
                         uint32_t blocks) -> absl::StatusOr<std::unique_ptr<Compute>> {
    if (blocks == 4) return gpu(model, layout, blocks);
    return MakeCpuCompute(model, layout, blocks, DetectIsa(), 1, 1);
  };
  const ClusterRun run = ExpectGoldens(settings, {{.golden = 4}}, 4);
  EXPECT_EQ(Sum(run, &GpuExchanger::Counters::exchanges), 0u);
  EXPECT_GT(run.services[1].queries, 0u);
}

// In the middle of the creditor's second exchange.
TEST_P(GpuExchangeRunTest, AnExchangeThatNcclCutsOffIsRepeatedOverTheTransport) {
  for (const bool noticed : {true, false}) {
    trouble_ = [this, noticed](int call) {
      if (call == 2 * model_->config().layers + 2) KillFakeNcclRank(1, noticed);
      return true;
    };
    const ClusterRun run = ExpectGoldens(Settings({4, 12}), {{.golden = 4}}, 8);
    EXPECT_GT(run.exchanges[0].exchanges, 1u);
    EXPECT_GT(Sum(run, &GpuExchanger::Counters::pairs_closed), 0u);
    EXPECT_GT(run.reports[0].abandoned_steps(), 0u);
    EXPECT_EQ(run.reports[0].loans_lost(), 0u) << "the creditor lives";
  }
}

TEST_P(GpuExchangeRunTest, ACreditorWhoseGpuHangsIsGivenUpInBoundedTime) {
  trouble_ = [this](int call) { return call < 2 * model_->config().layers + 2; };
  WorkerSettings settings = Settings({4, 12});
  settings.reply_deadline = absl::Seconds(2);
  const ClusterRun run = ExpectGoldens(settings, {{.golden = 4}}, 8);
  EXPECT_GT(run.exchanges[0].pairs_closed, 0u);
  EXPECT_GT(run.reports[0].abandoned_steps(), 0u);
}

TEST_P(GpuExchangeRunTest, AnAbortThatHangsEndsTheJobInBoundedTime) {
  trouble_ = [this](int call) { return call < 2 * model_->config().layers + 2; };
  WorkerSettings settings = Settings({4, 12});
  settings.reply_deadline = absl::Seconds(2);
  settings.gpu_hang_wait = absl::Milliseconds(100);
  const MonotonicClock clock;
  auto hangs = std::make_unique<FakeNcclHangs>();
  auto cluster = *LocalCluster::Create(settings, model_.get(), tokenizer_.get(), &clock);
  ASSERT_TRUE(cluster->job().Submit(goldens_[4].prompt_ids, Greedy(8), 0, "", InstanceId(0)).ok());
  absl::Status why;
  while (why.ok()) why = cluster->job().Wait(absl::Seconds(1)).status();
  EXPECT_THAT(why.message(), testing::HasSubstr("hangs"));
  EXPECT_FALSE(cluster->Join().ok());
  EXPECT_TRUE(cluster->worker(0).hangs());
  hangs.reset();  // what a process would not wait for
}

TEST_P(GpuExchangeRunTest, ACallOfTheGpuThatDoesNotReturnEndsTheJobInBoundedTime) {
  std::promise<void> called, released;
  trouble_ = [&, end = released.get_future().share()](int call) {
    if (call == 3) called.set_value(), end.wait();
    return true;
  };
  WorkerSettings settings = Settings({4, 12});
  settings.reply_deadline = absl::Seconds(2);
  settings.gpu_hang_wait = absl::Milliseconds(100);
  const MonotonicClock clock;
  auto cluster = *LocalCluster::Create(settings, model_.get(), tokenizer_.get(), &clock);
  ASSERT_TRUE(cluster->job().Submit(goldens_[4].prompt_ids, Greedy(8), 0, "", InstanceId(0)).ok());
  called.get_future().wait();
  absl::Status why;
  while (why.ok()) why = cluster->job().Wait(absl::Seconds(1)).status();
  EXPECT_THAT(why.message(), testing::HasSubstr("hangs"));
  EXPECT_FALSE(cluster->Join().ok());
  EXPECT_TRUE(cluster->worker(1).hangs());
  released.set_value();
}

INSTANTIATE_TEST_SUITE_P(Seed, GpuExchangeRunTest, testing::Values(1));

}  // namespace
}  // namespace lombard
