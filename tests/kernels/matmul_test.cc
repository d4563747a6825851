// Products against float64. The bound: an output is a sum of k products in `lanes` >= 4 chains, joined by a
// tree, plus bias and old value; each addition errs by at most one unit roundoff of a partial sum, which
// never exceeds sum |x w|.
#include "kernels/matmul.h"

#include <cmath>

#include "kernels/internal/kernel_table.h"
#include "tests/kernels/kernel_test.h"

namespace lombard {
namespace {

class MatmulTest : public KernelTest {};

struct Problem {
  DType dtype;
  int rows, n, k;
  bool bias, accumulate;
  int x_pad, y_pad;

  std::string Describe(uint64_t seed) const {
    return "seed " + std::to_string(seed) + ", " + std::string(DTypeName(dtype)) + ", rows " +
           std::to_string(rows) + ", n " + std::to_string(n) + ", k " + std::to_string(k) +
           (bias ? ", bias" : "") + (accumulate ? ", accumulate" : "");
  }
};

void Check(const CpuContext& context, const Problem& p, uint64_t seed) {
  SCOPED_TRACE(p.Describe(seed));
  std::mt19937_64 random(seed);
  const int x_stride = p.k + p.x_pad, y_stride = p.n + p.y_pad;
  const std::vector<float> x = RandomFloats(random, size_t(p.rows) * x_stride);
  const std::vector<float> bias = RandomFloats(random, p.n);
  const std::vector<float> before = RandomFloats(random, size_t(p.rows) * y_stride);
  GuardedBytes w(size_t(p.n) * p.k * DTypeBytes(p.dtype));
  for (size_t i = 0; i < size_t(p.n) * p.k; ++i) {
    StoreUnaligned(p.dtype, w.data(), i, std::uniform_real_distribution<float>(-1, 1)(random));
  }
  std::vector<float> y = before;
  MatmulArgs args;
  args.x = x.data(), args.x_stride = x_stride;
  args.w = w.data(), args.w_dtype = p.dtype;
  args.bias = p.bias ? bias.data() : nullptr;
  args.y = y.data(), args.y_stride = y_stride;
  args.rows = p.rows, args.n = p.n, args.k = p.k;
  args.accumulate = p.accumulate;
  Matmul(context, args);
  for (int m = 0; m < p.rows; ++m) {
    for (int n = 0; n < y_stride; ++n) {
      const float got = y[size_t(m) * y_stride + n], old = before[size_t(m) * y_stride + n];
      if (n >= p.n) {
        ASSERT_EQ(got, old) << "wrote between rows, at " << m << ", " << n;
        continue;
      }
      double sum = 0, magnitude = 0;
      for (int k = 0; k < p.k; ++k) {
        float activation = x[size_t(m) * x_stride + k];
        if (p.dtype == DType::kBF16) activation = FloatFromBF16(BF16FromFloat(activation));
        const double product = double{activation} * LoadUnaligned(p.dtype, w.data(), size_t(n) * p.k + k);
        sum += product;
        magnitude += std::abs(product);
      }
      if (p.bias) sum += bias[n], magnitude += std::abs(bias[n]);
      if (p.accumulate) sum += old, magnitude += std::abs(old);
      // Pairs: 16 lanes of k / 16 products each; tiles: one chain. Products below 2^-126 count as zero.
      const int chain = context.isa == Isa::kAmx ? p.k : p.k / 4;
      ASSERT_NEAR(got, sum, (chain + 8) * kEpsilon * magnitude) << "at row " << m << ", column " << n;
    }
  }
}

TEST_P(MatmulTest, AgreesWithFloat64OnEveryKindOfShape) {
  for (uint64_t seed = 1; seed <= 120; ++seed) {
    std::mt19937_64 random(seed * 7919);
    Problem p;
    p.dtype = kAllDTypes[seed % 3];
    p.rows = Pick(random, {1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 16, 17, 31});
    p.n = Pick(random, {1, 2, 3, 4, 5, 7, 8, 9, 16, 31, 33, 70});
    p.k = Pick(random, {1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 100, 127, 511, 512, 513, 520, 1030});
    p.bias = random() % 2, p.accumulate = random() % 2;
    p.x_pad = random() % 3, p.y_pad = random() % 3;
    Check(context(), p, seed);
    if (HasFatalFailure()) return;
  }
}

TEST_P(MatmulTest, ManyRowsTakeSeveralPasses) {
  Check(context(), {DType::kBF16, 97, 33, 70, true, false, 0, 0}, 1);
  Check(context(), {DType::kF32, 203, 40, 530, false, true, 1, 1}, 2);
  Check(context(), {DType::kF16, 130, 5, 64, false, false, 0, 3}, 3);
}

// One row more or less than a register tile, a strip, a stream has; k in one block, in several, with a rest.
TEST_P(MatmulTest, RowsAndColumnsAroundEveryTileAgree) {
  uint64_t seed = 100;
  for (const int rows : {8, 9, 13, 24, 25, 129}) {
    for (const int k : {2047, 2048, 4100}) {
      Check(context(), {DType::kBF16, rows, rows == 129 ? 67 : 18, k, true, true, 1, 1}, ++seed);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(MatmulTest, WeightsMayStartAtAnyMultipleOfTwoBytes) {
  std::mt19937_64 random(5);
  const int n = 9, k = 67, rows = 3;
  const std::vector<float> x = RandomFloats(random, rows * k), w = RandomFloats(random, n * k);
  for (DType dtype : kAllDTypes) {
    std::vector<float> aligned(rows * n), shifted(rows * n);
    std::vector<char> bytes(w.size() * DTypeBytes(dtype) + 64);
    for (int offset : {0, 2, 6, 34}) {
      for (size_t i = 0; i < w.size(); ++i) StoreUnaligned(dtype, bytes.data() + offset, i, w[i]);
      MatmulArgs args;
      args.x = x.data(), args.x_stride = k, args.w = bytes.data() + offset, args.w_dtype = dtype;
      args.y = offset == 0 ? aligned.data() : shifted.data(), args.y_stride = n;
      args.rows = rows, args.n = n, args.k = k;
      Matmul(context(), args);
      if (offset != 0) {
        EXPECT_EQ(aligned, shifted) << std::string(DTypeName(dtype)) << " at " << offset;
      }
    }
  }
}

// One row gives the same bits alone, in any batch and on any number of threads (AMX: among products of few
// rows, and among those of many).
TEST_P(MatmulTest, ARowsResultDoesNotDependOnItsBatch) {
  std::mt19937_64 random(11);
  const int n = 45, k = 2100, rows = 110;
  const std::vector<float> x = RandomFloats(random, rows * k), w = RandomFloats(random, n * k);
  for (DType dtype : kAllDTypes) {
    std::vector<char> bytes(w.size() * DTypeBytes(dtype));
    for (size_t i = 0; i < w.size(); ++i) StoreUnaligned(dtype, bytes.data(), i, w[i]);
    const auto product = [&](const CpuContext& context, int first, int count) {
      std::vector<float> y(size_t(count) * n);
      MatmulArgs args;
      args.x = x.data() + size_t(first) * k, args.x_stride = k, args.w = bytes.data(), args.w_dtype = dtype;
      args.y = y.data(), args.y_stride = n, args.rows = count, args.n = n, args.k = k;
      Matmul(context, args);
      return y;
    };
    const bool amx = GetParam() == Isa::kAmx && dtype == DType::kBF16;
    const std::vector<float> all = product(context(), 0, rows);
    // Where few rows are summed in another order they agree with one another.
    std::vector<float> alone;
    for (int row = 0; row < rows; ++row) {
      const std::vector<float> one = product(serial(), row, 1);
      alone.insert(alone.end(), one.begin(), one.end());
    }
    const bool pairs = GetParam() == Isa::kAvx512Bf16 && dtype == DType::kBF16;
    if (!amx && !pairs) {
      ASSERT_EQ(alone, all) << std::string(DTypeName(dtype));
    }
    for (int count : {1, 2, 3, 7, 8, 9, 24, 25, 50, 97}) {
      if (amx && count < 50) continue;
      for (int first : {0, 5}) {
        const std::vector<float> some = product(serial(), first, count);
        const std::vector<float>& same = pairs && count <= internal::kFewPairsRows ? alone : all;
        const std::vector<float> expected(same.begin() + first * n, same.begin() + (first + count) * n);
        ASSERT_EQ(some, expected) << std::string(DTypeName(dtype)) << ", rows " << first << " + " << count;
      }
    }
  }
}

LOMBARD_FOR_EVERY_ISA(MatmulTest);

}  // namespace
}  // namespace lombard
