#include "kernels/cuda/fill.h"

#include "tests/kernels/cuda/gpu_test.h"

namespace lombard {
namespace {

class GpuFillTest : public GpuTest {};

TEST_P(GpuFillTest, ValuesAreSpreadEvenlyAndDependOnTheSeedAlone) {
  const int64_t count = 20001;
  for (const DType dtype : kAllDTypes) {
    const auto fill = [&](uint32_t seed) {
      const DeviceMemory memory = Upload(Encode(dtype, std::vector<float>(count + 1, 7)));
      EXPECT_TRUE(GpuFillRandom(stream().ref(), dtype, memory.data(), count, 0.5f, seed).ok());
      return Decode(dtype, Download<char>(memory));
    };
    const std::vector<float> values = fill(1);
    EXPECT_EQ(values, fill(1));
    EXPECT_NE(values, fill(2));
    EXPECT_EQ(values[count], 7);
    double sum = 0, squares = 0, lags = 0;
    for (int64_t i = 0; i < count; ++i) {
      ASSERT_LE(std::abs(values[i]), 0.5f);
      sum += values[i], squares += double{values[i]} * values[i];
      if (i > 0) lags += double{values[i]} * values[i - 1];
    }
    // Of n independent values: deviations are 1 / sqrt(n) of the spread; five of them.
    const double spread = 0.5 / std::sqrt(3), bound = 5 / std::sqrt(static_cast<double>(count));
    EXPECT_LT(std::abs(sum / count), bound * spread);
    EXPECT_NEAR(squares / count / spread / spread, 1, bound);
    EXPECT_LT(std::abs(lags / count), bound * spread * spread);
  }
}

LOMBARD_FOR_EVERY_GPU_SEED(GpuFillTest);

}  // namespace
}  // namespace lombard
