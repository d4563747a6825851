#include "kernels/elementwise.h"

#include <cmath>
#include <cstdio>
#include <limits>

#include "kernels/internal/kernel_table.h"
#include "tests/kernels/kernel_test.h"
#include "tests/kernels/reference.h"

namespace lombard {
namespace {

class ElementwiseTest : public KernelTest {};

constexpr int64_t kDims[] = {1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100, 2048};

TEST_P(ElementwiseTest, ExpStaysWithinItsStatedError) {
  const internal::KernelTable& kernels = internal::KernelsFor(GetParam());
  std::vector<float> x;
  for (float v = -87.3f; v <= 88.2f; v += 0.00037f) x.push_back(v);
  for (float v : {0.0f, -0.0f, 1e-30f, -1e-30f, 0.34657359f, -0.34657359f}) x.push_back(v);
  std::vector<float> y(x.size());
  kernels.exp(x.data(), y.data(), x.size());
  double worst = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double expected = std::exp(double{x[i]});
    const double error = std::abs(y[i] - expected) / expected;
    worst = std::max(worst, error);
    ASSERT_LE(error, internal::kExpRelativeError) << "exp(" << x[i] << ") = " << y[i];
  }
  std::printf("worst relative error of exp: %.3g\n", worst);

  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  const float special[] = {-inf, -1000, -88, nan, 0, 100};
  float out[6];
  kernels.exp(special, out, 6);
  EXPECT_EQ(out[0], 0);
  EXPECT_EQ(out[1], 0);
  EXPECT_EQ(out[2], 0);
  EXPECT_TRUE(std::isnan(out[3]));
  EXPECT_EQ(out[4], 1);
  EXPECT_GT(out[5], 1e38f);
}

TEST_P(ElementwiseTest, ConversionsMatchTheScalarOnesBitForBit) {
  // Every 16-bit pattern up, and fp32 values near every rounding boundary down.
  for (DType dtype : {DType::kF16, DType::kBF16}) {
    std::vector<uint16_t> half(65536);
    for (int i = 0; i < 65536; ++i) half[i] = static_cast<uint16_t>(i);
    std::vector<float> wide(65536);
    ConvertToF32(context(), dtype, half.data(), wide.data(), 65536);
    std::vector<float> probes;
    for (int i = 0; i < 65536; ++i) {
      const float expected = LoadFloat(dtype, half.data(), i);
      if (std::isnan(expected)) {
        ASSERT_TRUE(std::isnan(wide[i])) << i;
      } else {
        ASSERT_EQ(std::bit_cast<uint32_t>(wide[i]), std::bit_cast<uint32_t>(expected)) << i;
      }
      const uint32_t bits = std::bit_cast<uint32_t>(expected);
      for (uint32_t step : {0u, 1u, 0xfffu, 0x1000u, 0x1001u, 0x7fffu, 0x8000u, 0x8001u}) {
        probes.push_back(std::bit_cast<float>(bits + step));
      }
    }
    std::vector<uint16_t> down(probes.size());
    std::vector<float> rounded = probes;
    ConvertFromF32(context(), probes.data(), dtype, down.data(), probes.size());
    RoundTo(context(), dtype, rounded.data(), rounded.size());
    for (size_t i = 0; i < probes.size(); ++i) {
      const uint16_t expected = dtype == DType::kBF16 ? BF16FromFloat(probes[i]) : F16FromFloat(probes[i]);
      const float expected_wide = dtype == DType::kBF16 ? FloatFromBF16(expected) : FloatFromF16(expected);
      const float got = LoadFloat(dtype, down.data(), i);
      if (std::isnan(probes[i])) {
        ASSERT_TRUE(std::isnan(got) && std::isnan(rounded[i])) << std::bit_cast<uint32_t>(probes[i]);
        continue;
      }
      ASSERT_EQ(down[i], expected) << std::string(DTypeName(dtype)) << " of " << probes[i];
      ASSERT_EQ(std::bit_cast<uint32_t>(rounded[i]), std::bit_cast<uint32_t>(expected_wide)) << probes[i];
    }
  }
}

TEST_P(ElementwiseTest, ConversionsReadAndWriteNothingBehindTheirCount) {
  for (DType dtype : kAllDTypes) {
    for (int64_t n = 1; n < 40; ++n) {
      GuardedBytes src(n * 4), dst(n * DTypeBytes(dtype)), back(n * 4);
      for (int64_t i = 0; i < n; ++i) StoreUnaligned(DType::kF32, src.data(), i, 0.25f * i);
      ConvertFromF32(context(), static_cast<float*>(src.data()), dtype, dst.data(), n);
      ConvertToF32(context(), dtype, dst.data(), static_cast<float*>(back.data()), n);
      for (int64_t i = 0; i < n; ++i) ASSERT_EQ(static_cast<float*>(back.data())[i], 0.25f * i);
    }
  }
}

// Tolerances: the sum of squares of n terms, one square root, one division, two products.
TEST_P(ElementwiseTest, RmsNormAgreesWithFloat64AndWorksInPlace) {
  std::mt19937_64 random(3);
  for (int64_t dim : kDims) {
    const int rows = 3;
    const int64_t stride = dim + 2;
    std::vector<float> x = RandomFloats(random, rows * stride, 10), y(rows * stride, 7);
    const std::vector<float> weight = RandomFloats(random, dim);
    RmsNormArgs args{x.data(), weight.data(), y.data(), rows, dim, stride, stride, 1e-5f};
    RmsNorm(context(), args);
    for (int r = 0; r < rows; ++r) {
      const std::vector<double> row(x.begin() + r * stride, x.begin() + r * stride + dim);
      const std::vector<double> expected = RmsNormReference(row, weight.data(), 1e-5f);
      for (int64_t i = 0; i < dim; ++i) {
        ASSERT_NEAR(y[r * stride + i], expected[i], (dim / 8 + 8) * kEpsilon * std::abs(expected[i]))
            << dim << ", " << i;
      }
      ASSERT_EQ(y[r * stride + dim], 7);
    }
    std::vector<float> in_place = x;
    args.x = args.y = in_place.data();
    RmsNorm(context(), args);
    for (int r = 0; r < rows; ++r) {
      for (int64_t i = 0; i < dim; ++i) ASSERT_EQ(in_place[r * stride + i], y[r * stride + i]);
    }
  }
}

TEST_P(ElementwiseTest, RopeAgreesWithFloat64AtFarPositions) {
  std::mt19937_64 random(4);
  for (int64_t head_dim : {2, 8, 10, 64, 80, 96, 128}) {
    const int64_t rows = 3, heads = 2, half = head_dim / 2, stride = heads * head_dim + 5;
    std::vector<double> inv_freq(half);
    for (int64_t i = 0; i < half; ++i) inv_freq[i] = std::pow(500000.0, -2.0 * i / head_dim);
    const std::vector<int32_t> positions = {0, 17, 131071};
    const std::vector<float> x = RandomFloats(random, rows * stride);
    std::vector<float> y = x;
    Rope(context(), {y.data(), positions.data(), inv_freq.data(), rows, heads, head_dim, stride, 1.25f});
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t h = 0; h < heads; ++h) {
        for (int64_t i = 0; i < half; ++i) {
          const int64_t at = r * stride + h * head_dim + i;
          const RotatedPair expected = RopeReference(x[at], x[at + half], positions[r] * inv_freq[i], 1.25);
          const double bound = 4 * kEpsilon * 1.25 * (std::abs(x[at]) + std::abs(x[at + half]));
          ASSERT_NEAR(y[at], expected.low, bound) << head_dim << ", row " << r << ", " << i;
          ASSERT_NEAR(y[at + half], expected.high, bound) << head_dim << ", row " << r << ", " << i;
        }
      }
      for (int64_t i = heads * head_dim; i < stride; ++i) ASSERT_EQ(y[r * stride + i], x[r * stride + i]);
    }
  }
}

TEST_P(ElementwiseTest, SwiGluAgreesWithFloat64AndWorksInPlace) {
  std::mt19937_64 random(6);
  for (int64_t dim : kDims) {
    const int64_t rows = 2, stride = 2 * dim;
    std::vector<float> both = RandomFloats(random, rows * stride, 30);
    both[0] = -100, both[stride] = 100;
    std::vector<float> y(rows * dim);
    SwiGlu(context(), {both.data(), both.data() + dim, y.data(), rows, dim, stride, dim});
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t i = 0; i < dim; ++i) {
        const double gate = both[r * stride + i], up = both[r * stride + dim + i];
        const double expected = SwiGluReference(gate, up);
        // exp's error, then an addition, a division and a product; results below 1e-30 may vanish.
        ASSERT_NEAR(y[r * dim + i], expected,
                    (internal::kExpRelativeError + 4 * kEpsilon) * std::abs(expected) + 1e-30)
            << gate << ", " << up;
      }
    }
    std::vector<float> in_place = both;
    SwiGlu(context(), {in_place.data(), in_place.data() + dim, in_place.data(), rows, dim, stride, stride});
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t i = 0; i < dim; ++i) ASSERT_EQ(in_place[r * stride + i], y[r * dim + i]);
    }
  }
}

TEST_P(ElementwiseTest, EmbedPicksRowsOfEveryType) {
  std::mt19937_64 random(8);
  const int64_t vocab = 11, dim = 37;
  const std::vector<int32_t> ids = {10, 0, 3, 3};
  for (DType dtype : kAllDTypes) {
    GuardedBytes table(vocab * dim * DTypeBytes(dtype));
    for (int64_t i = 0; i < vocab * dim; ++i)
      StoreUnaligned(dtype, table.data(), i, static_cast<float>(i % 251) - 125);
    std::vector<float> y(ids.size() * dim);
    Embed(context(), {table.data(), dtype, ids.data(), y.data(), static_cast<int64_t>(ids.size()), dim});
    for (size_t r = 0; r < ids.size(); ++r) {
      for (int64_t i = 0; i < dim; ++i)
        ASSERT_EQ(y[r * dim + i], static_cast<float>((ids[r] * dim + i) % 251) - 125);
    }
  }
}

TEST_P(ElementwiseTest, LongArraysGiveTheSameOnAllThreads) {
  std::mt19937_64 random(9);
  const std::vector<float> x = RandomFloats(random, 200003, 5);
  std::vector<float> alone = x, together = x;
  RoundTo(serial(), DType::kBF16, alone.data(), alone.size());
  RoundTo(context(), DType::kBF16, together.data(), together.size());
  EXPECT_EQ(alone, together);
  EXPECT_NE(alone, x);
}

LOMBARD_FOR_EVERY_ISA(ElementwiseTest);

}  // namespace
}  // namespace lombard
