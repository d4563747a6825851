#include "base/dtype.h"

#include <gtest/gtest.h>

#include <cmath>

namespace lombard {
namespace {

TEST(DType, EveryHalfPatternSurvivesTheRoundTrip) {
  for (uint32_t bits = 0; bits <= 0xffff; ++bits) {
    const float f16 = FloatFromF16(bits), bf16 = FloatFromBF16(bits);
    if (std::isnan(f16)) {
      EXPECT_TRUE(std::isnan(FloatFromF16(F16FromFloat(f16))));
    } else {
      ASSERT_EQ(F16FromFloat(f16), bits);
    }
    if (std::isnan(bf16)) {
      EXPECT_TRUE(std::isnan(FloatFromBF16(BF16FromFloat(bf16))));
    } else {
      ASSERT_EQ(BF16FromFloat(bf16), bits);
    }
  }
}

TEST(DType, RoundsToNearestEven) {
  EXPECT_EQ(BF16FromFloat(1.0f + 0x1p-8f), BF16FromFloat(1.0f));              // tie, to even
  EXPECT_EQ(BF16FromFloat(1.0f + 0x1.8p-7f), BF16FromFloat(1.0f + 0x1p-6f));  // tie, to even, upwards
  EXPECT_EQ(F16FromFloat(1.0f + 0x1p-11f), F16FromFloat(1.0f));
  EXPECT_EQ(FloatFromF16(F16FromFloat(0x1p-24f)), 0x1p-24f);  // smallest subnormal
  EXPECT_TRUE(std::isinf(FloatFromF16(F16FromFloat(1e6f))));
}

}  // namespace
}  // namespace lombard
