// Goal: a step whose creditors attend on their own streams gives the bits that the host gives when it carries
// every layer's queries and states itself. Method: three ranks on the emulated device and a fake NCCL; the
// same kernels both ways, in orders drawn from seeds.
#include "distattn/gpu_exchange.h"

#include <gmock/gmock.h>

#include <numeric>

#include "base/status.h"
#include "fabric/nccl/nccl_collectives.h"
#include "kernels/cuda/attention_schedule.h"
#include "kernels/cuda/merge_states.h"
#include "kernels/cuda/partial_attention.h"
#include "tests/fabric/fake_nccl.h"
#include "tests/kernels/cuda/gpu_test.h"

namespace lombard {
namespace {

constexpr int kLayers = 3, kRows = 3, kRanks = 3, kHeads = 4, kDim = 16;
constexpr KvLayout kLayout{DType::kF32, 2, kDim, 8};
constexpr int kTokens[kRanks] = {13, 24, 16};  // of the span of each; the debtor's is the last
constexpr int kFirst[kRanks] = {40, 0, 24};
constexpr uint64_t kQueryBytes = kRows * kHeads * kDim * sizeof(float);
constexpr uint64_t kStates = kRows * kHeads, kStateBytes = kStates * (kDim + 2) * sizeof(float);

// Holds one span: its KV of every layer, and the schedule that attends it. States lie as on the wire.
struct Holder {
  std::vector<DeviceMemory> k, v;
  DeviceMemory work, rows, positions, table, query, states;
  GpuAttentionArgs args;

  absl::Status Attend(int layer, GpuStream& stream) {
    args.k = k[layer].data(), args.v = v[layer].data();
    return ToStatus(GpuPartialAttention(stream.ref(), args));
  }
};

class GpuExchangeTest : public GpuTest {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    emulation::SetPatienceMs(200);
    for (int rank = 0; rank < kRanks; ++rank) {
      side_.push_back(*GpuStream::Create(rank));
      collectives_.push_back(MakeNcclCollectives(
          FakeNccl(), {.rank = rank, .device = rank, .place = {"host", std::to_string(rank)}}, &clock_));
      MakeHolder(rank);
    }
    for (int creditor = 1; creditor < kRanks; ++creditor) {
      const LoanPair pair{0, creditor};
      const std::string key = *collectives_[0]->NewKey();
      CHECK_OK(collectives_[0]->Open(pair, key, {"host", std::to_string(creditor)}, clock_.Now()));
      CHECK_OK(collectives_[creditor]->Open(pair, key, {"host", "0"}, clock_.Now()));
      for (const int rank : {0, creditor}) EXPECT_TRUE(collectives_[rank]->Poll(clock_.Now()).empty());
      incoming_.push_back(Allocate(kStateBytes));
      outgoing_.push_back(Allocate(kQueryBytes));
    }
    for (int layer = 0; layer < kLayers; ++layer)
      queries_.push_back(Upload(RandomFloats(random(), kRows * kHeads * kDim, 1)));
    std::vector<int32_t> begin, ids;
    for (int row = 0; row <= kRows; ++row) begin.push_back(row * kRanks);
    for (int row = 0; row < kRows; ++row)
      for (const int rank : {1, 2, 0}) ids.push_back(rank * kRows + row);
    part_begin_ = Upload(begin), part_ids_ = Upload(ids);
    parts_ = Allocate(kRanks * kStateBytes);
    out_ = Allocate(kLayers * kQueryBytes);
  }
  void TearDown() override {
    collectives_.clear();
    emulation::SetPatienceMs(2000);
  }

  void MakeHolder(int rank) {
    Holder& holder = holders_.emplace_back();
    std::vector<int32_t> positions(kRows), rows(kRows), table((kTokens[rank] + 7) / 8);
    std::iota(positions.begin(), positions.end(), 50);
    std::iota(rows.begin(), rows.end(), 0);
    std::iota(table.begin(), table.end(), 0);
    const AttentionSchedule schedule =
        PlanAttention(kLayout, kHeads, positions, {{{0, kTokens[rank], kFirst[rank], rows}}});
    CHECK_EQ(schedule.state_rows, kRows);
    for (int layer = 0; layer < kLayers; ++layer) {
      holder.k.push_back(Upload(RandomFloats(random(), table.size() * kLayout.block_elements(), 1)));
      holder.v.push_back(Upload(RandomFloats(random(), table.size() * kLayout.block_elements(), 1)));
    }
    holder.work = Upload(schedule.work), holder.rows = Upload(schedule.rows);
    holder.positions = Upload(positions), holder.table = Upload(table);
    holder.query = Allocate(kQueryBytes), holder.states = Allocate(kStateBytes);
    GpuAttentionArgs& args = holder.args;
    args.tables.SetWork(holder.work.data<AttentionWork>(), schedule.work_count);
    args.tables.rows = holder.rows.data<int32_t>(), args.tables.positions = holder.positions.data<int32_t>();
    args.tables.block_table = holder.table.data<int32_t>();
    args.q = holder.query.data(), args.q_stride = kHeads * kDim;
    args.layout = kLayout, args.q_heads = kHeads, args.scale = 0.25f;
    args.acc = holder.states.data<float>();
    args.max = args.acc + kStates * kDim, args.sum = args.max + kStates;
  }

  // States of all ranks, the debtor's own and what came in, into the merge and out_ of the layer.
  absl::Status Merge(int layer) {
    float* const acc = parts_.data<float>();
    float *const max = acc + kRanks * kStates * kDim, *const sum = max + kRanks * kStates;
    for (int rank = 0; rank < kRanks; ++rank) {
      const float* from = rank == 0 ? holders_[0].args.acc : incoming_[rank - 1].data<float>();
      RETURN_IF_ERROR(stream().Copy(acc + rank * kStates * kDim, from, kStates * kDim * sizeof(float)));
      RETURN_IF_ERROR(stream().Copy(max + rank * kStates, from += kStates * kDim, kStates * sizeof(float)));
      RETURN_IF_ERROR(stream().Copy(sum + rank * kStates, from += kStates, kStates * sizeof(float)));
    }
    return ToStatus(GpuMergeStates(stream().ref(), {.acc = acc,
                                                    .max = max,
                                                    .sum = sum,
                                                    .part_begin = part_begin_.data<int32_t>(),
                                                    .part_ids = part_ids_.data<int32_t>(),
                                                    .rows = kRows,
                                                    .heads = kHeads,
                                                    .head_dim = kDim,
                                                    .out = out_.data<char>() + layer * kQueryBytes}));
  }

  // The host carries everything, layer by layer.
  std::vector<float> HostDriven() {
    for (int layer = 0; layer < kLayers; ++layer) {
      for (int rank = 0; rank < kRanks; ++rank) {
        Holder& holder = holders_[rank];
        CHECK_OK(stream().Copy(holder.query.data(), queries_[layer].data(), kQueryBytes));
        CHECK_OK(holder.Attend(layer, stream()));
        if (rank > 0) {
          CHECK_OK(stream().Copy(incoming_[rank - 1].data(), holder.states.data(), kStateBytes));
        }
        CHECK_OK(stream().Synchronize());
      }
      CHECK_OK(Merge(layer));
    }
    return Download<float>(out_);
  }

  absl::Status SubmitCreditor(int rank) {
    Holder& holder = holders_[rank];
    return SubmitCreditorExchange(*collectives_[rank], {0, rank},
                                  {0, holder.query.data(), kQueryBytes, holder.states.data(), kStateBytes},
                                  kLayers, side_[rank],
                                  [&](int layer) { return holder.Attend(layer, side_[rank]); });
  }
  GpuDebtorExchange MakeDebtor() {
    std::vector<GpuExchangePart> parts;
    for (int creditor = 1; creditor < kRanks; ++creditor) {
      parts.push_back({creditor, outgoing_[creditor - 1].data(), kQueryBytes, incoming_[creditor - 1].data(),
                       kStateBytes});
    }
    return *GpuDebtorExchange::Create(collectives_[0].get(), 0, kLayers, parts, &side_[0]);
  }
  absl::Status DebtorLayer(GpuDebtorExchange& exchange, int layer) {
    for (const DeviceMemory& query : outgoing_)
      RETURN_IF_ERROR(stream().Copy(query.data(), queries_[layer].data(), kQueryBytes));
    RETURN_IF_ERROR(exchange.Begin(stream()));
    RETURN_IF_ERROR(stream().Copy(holders_[0].query.data(), queries_[layer].data(), kQueryBytes));
    RETURN_IF_ERROR(holders_[0].Attend(layer, stream()));
    RETURN_IF_ERROR(exchange.End(stream()));
    return Merge(layer);
  }

  MonotonicClock clock_;
  std::vector<GpuStream> side_;
  std::vector<std::unique_ptr<Collectives>> collectives_;
  std::vector<Holder> holders_;
  std::vector<DeviceMemory> queries_, incoming_, outgoing_;
  DeviceMemory part_begin_, part_ids_, parts_, out_;
};

TEST_P(GpuExchangeTest, GivesTheBitsOfTheHostDrivenExchange) {
  const std::vector<float> expected = HostDriven();
  CHECK_OK(stream().Fill(out_.data(), 0xff, out_.bytes()));
  for (int step = 0; step < 2; ++step) {
    for (const int creditor : {2, 1}) ASSERT_TRUE(SubmitCreditor(creditor).ok());
    GpuDebtorExchange exchange = MakeDebtor();
    for (int layer = 0; layer < kLayers; ++layer) ASSERT_TRUE(DebtorLayer(exchange, layer).ok());
    const std::vector<float> got = Download<float>(out_);
    ASSERT_EQ(std::memcmp(got.data(), expected.data(), out_.bytes()), 0);
    EXPECT_TRUE(exchange.lost().empty());
  }
}

TEST_P(GpuExchangeTest, ADroppedStepKeepsItsPromiseAndTheNextIsRight) {
  const std::vector<float> expected = HostDriven();
  for (const int creditor : {1, 2}) ASSERT_TRUE(SubmitCreditor(creditor).ok());
  GpuDebtorExchange dropped = MakeDebtor();
  ASSERT_TRUE(DebtorLayer(dropped, 0).ok());
  ASSERT_TRUE(dropped.Begin(stream()).ok());
  ASSERT_TRUE(dropped.KeepPromise(stream()).ok());
  for (const int creditor : {1, 2}) EXPECT_TRUE(side_[creditor].Synchronize().ok()) << "a creditor waits";

  for (const int creditor : {1, 2}) ASSERT_TRUE(SubmitCreditor(creditor).ok());
  GpuDebtorExchange exchange = MakeDebtor();
  for (int layer = 0; layer < kLayers; ++layer) ASSERT_TRUE(DebtorLayer(exchange, layer).ok());
  EXPECT_EQ(Download<float>(out_), expected);
}

TEST_P(GpuExchangeTest, ALostCreditorIsNamedAndTheOtherGoesOn) {
  for (const int creditor : {1, 2}) ASSERT_TRUE(SubmitCreditor(creditor).ok());
  GpuDebtorExchange exchange = MakeDebtor();
  ASSERT_TRUE(DebtorLayer(exchange, 0).ok());
  KillFakeNcclRank(1, true);
  EXPECT_EQ(collectives_[0]->Poll(clock_.Now()).size(), 1);
  for (int layer = 1; layer < kLayers; ++layer) ASSERT_TRUE(DebtorLayer(exchange, layer).ok());
  EXPECT_TRUE(stream().Synchronize().ok());
  EXPECT_THAT(exchange.lost(), testing::ElementsAre(1));
  EXPECT_TRUE(side_[2].Synchronize().ok());
}

LOMBARD_FOR_EVERY_GPU_SEED(GpuExchangeTest);

}  // namespace
}  // namespace lombard
