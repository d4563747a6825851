// Goal: a graph stands for the steps of its key alone, and where there is none the work still runs. Method:
// work that adds a number of the step's to a sum, on the emulated device.
#include "runtime/engine/gpu/gpu_step_graphs.h"

#include "tests/kernels/cuda/gpu_test.h"

namespace lombard {
namespace {

class GpuStepGraphsTest : public GpuTest {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    if (IsSkipped()) return;
    numbers_ = Allocate(16);
    pinned_ = *PinnedMemory::Create(stream().device(), 16);
  }
  GpuStepGraphs::Key KeyOf(int rows) { return {.shape = {.rows = rows}, .tables = numbers_.data()}; }
  // Copies what pinned_ has when it runs. Returns whether it was enqueued anew.
  bool Step(GpuStepGraphs& graphs, const GpuStepGraphs::Key& key) {
    bool enqueued = false;
    pinned_.data<int32_t>()[0] = ++value_;
    const absl::Status status = graphs.Run(key, stream(), [&] {
      enqueued = true;
      return stream().Copy(numbers_.data(), pinned_.data(), sizeof(int32_t));
    });
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_TRUE(stream().Synchronize().ok());
    EXPECT_EQ(Download<int32_t>(numbers_)[0], value_);
    return enqueued;
  }

  DeviceMemory numbers_;
  PinnedMemory pinned_;
  int32_t value_ = 0;
};

TEST_P(GpuStepGraphsTest, TheFirstStepRunsTheSecondIsRecordedTheOthersAreLaunched) {
  GpuStepGraphs graphs(4);
  for (const bool anew : {true, true, false, false}) EXPECT_EQ(Step(graphs, KeyOf(1)), anew);
}

TEST_P(GpuStepGraphsTest, AnotherShapeOrOtherMemoryIsAnotherGraph) {
  GpuStepGraphs graphs(8);
  GpuStepGraphs::Key scratch = KeyOf(1), states = KeyOf(1), work = KeyOf(1), tables = KeyOf(1);
  scratch.scratch = 1, states.states = 1, work.shape.work[1] = 1, tables.tables = pinned_.data();
  for (const auto& key : {KeyOf(1), scratch, states, work, tables, KeyOf(2)}) {
    EXPECT_TRUE(Step(graphs, key));
    EXPECT_TRUE(Step(graphs, key));
    EXPECT_FALSE(Step(graphs, key));
  }
}

TEST_P(GpuStepGraphsTest, TheOneUsedLongestAgoGoes) {
  GpuStepGraphs graphs(2);
  for (int i = 0; i < 2; ++i) Step(graphs, KeyOf(1)), Step(graphs, KeyOf(2));
  EXPECT_FALSE(Step(graphs, KeyOf(1)));
  EXPECT_TRUE(Step(graphs, KeyOf(3)));  // instead of 2
  EXPECT_FALSE(Step(graphs, KeyOf(1)));
  EXPECT_TRUE(Step(graphs, KeyOf(2)));  // instead of 3
  EXPECT_FALSE(Step(graphs, KeyOf(1)));
  EXPECT_TRUE(Step(graphs, KeyOf(3)));
}

TEST_P(GpuStepGraphsTest, NoneIsMadeWhereNoneIsWanted) {
  GpuStepGraphs graphs(0);
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(Step(graphs, KeyOf(1)));
}

#ifdef LOMBARD_EMULATED_GPU
TEST_P(GpuStepGraphsTest, WithoutMemoryForGraphsStepsRunPlainly) {
  GpuStepGraphs graphs(4);
  EXPECT_TRUE(Step(graphs, KeyOf(1)));
  emulation::SetMemoryBytes(1);
  EXPECT_TRUE(Step(graphs, KeyOf(1)));
  emulation::SetMemoryBytes(uint64_t{1} << 30);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(Step(graphs, KeyOf(1)));
  EXPECT_FALSE(graphs.on());
}
#endif

LOMBARD_FOR_EVERY_GPU_SEED(GpuStepGraphsTest);

}  // namespace
}  // namespace lombard
