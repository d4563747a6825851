// What the instructions do, on the hardware and under emulation by the same body: the emulation is right as
// far as both agree with float64.
#include <numeric>

#include "tests/kernels/cuda/gpu_test.h"
#include "tests/kernels/cuda/probe_kernels.h"

namespace lombard {
namespace {

class PtxTest : public GpuTest {};

TEST_P(PtxTest, MatrixProductsReadTheirFragmentsAsDocumented) {
  for (const DType dtype : {DType::kF16, DType::kBF16}) {
    for (const bool b_columns : {false, true}) {
      const std::vector<char> a_bytes = Encode(dtype, RandomFloats(random(), 16 * 16)),
                              b_bytes = Encode(dtype, RandomFloats(random(), 16 * 8));
      const std::vector<float> a = Decode(dtype, a_bytes), b = Decode(dtype, b_bytes),
                               c = RandomFloats(random(), 16 * 8);
      const DeviceMemory a_device = Upload(a_bytes), b_device = Upload(b_bytes), c_device = Upload(c);
      EXPECT_LAUNCHED(ProbeMatrixProduct(stream().ref(), dtype, a_device.data(), b_device.data(), b_columns,
                                         c_device.data<float>()));
      const std::vector<float> got = Download<float>(c_device);
      for (int row = 0; row < 16; ++row) {
        for (int column = 0; column < 8; ++column) {
          double sum = c[row * 8 + column], magnitude = std::abs(sum);
          for (int k = 0; k < 16; ++k) {
            const double product =
                double{a[row * 16 + k]} * (b_columns ? b[column * 16 + k] : b[k * 8 + column]);
            sum += product, magnitude += std::abs(product);
          }
          // 16 additions that may truncate: two units each.
          ASSERT_NEAR(got[row * 8 + column], sum, 16 * 2 * kEpsilon * magnitude)
              << DTypeName(dtype) << (b_columns ? ", b by columns" : "") << ", row " << row << ", column "
              << column;
        }
      }
    }
  }
}

TEST_P(PtxTest, Exp2StaysWithinItsStatedError) {
  constexpr double kBound = 0x1p-22;  // ptx::kExp2RelativeError
  std::vector<float> x = {0, -0.0f, 1, -126, -126.5f, -1000, -std::numeric_limits<float>::infinity()};
  for (float v = -125.9f; v < 127; v += 0.0313f) x.push_back(v);
  const DeviceMemory x_device = Upload(x), y_device = Allocate(x.size() * 4);
  EXPECT_LAUNCHED(ProbeExp2(stream().ref(), x_device.data<float>(), y_device.data<float>(), int(x.size())));
  const std::vector<float> y = Download<float>(y_device);
  EXPECT_EQ(y[0], 1);
  EXPECT_EQ(y[1], 1);
  for (int i : {4, 5, 6}) EXPECT_EQ(y[i], 0);
  for (size_t i = 0; i < x.size(); ++i) {
    if (x[i] < -126) continue;
    const double expected = std::exp2(double{x[i]});
    ASSERT_NEAR(y[i], expected, kBound * expected) << x[i];
  }
}

TEST_P(PtxTest, ShufflesGiveTheLanesThatCudaDocuments) {
  const DeviceMemory out_device = Allocate(7 * 32 * sizeof(int));
  EXPECT_LAUNCHED(ProbeShuffles(stream().ref(), out_device.data<int>()));
  const std::vector<int> out = Download<int>(out_device);
  for (int lane = 0; lane < 32; ++lane) {
    const int part = lane % 8;
    EXPECT_EQ(out[lane], 5);
    EXPECT_EQ(out[32 + lane], lane < 3 ? lane : lane - 3);
    EXPECT_EQ(out[64 + lane], lane > 28 ? lane : lane + 3);
    EXPECT_EQ(out[96 + lane], lane ^ 6);
    EXPECT_EQ(out[128 + lane], lane - part + 5);
    EXPECT_EQ(out[160 + lane], part < 3 ? lane : lane - 3);
    EXPECT_EQ(out[192 + lane], part > 4 ? lane : lane + 3);
  }
}

TEST_P(PtxTest, AMatrixIsTransposedInRegisters) {
  std::vector<uint16_t> in(64);
  std::iota(in.begin(), in.end(), 1000);
  const DeviceMemory in_device = Upload(in), out_device = Allocate(128);
  EXPECT_LAUNCHED(ProbeTranspose(stream().ref(), in_device.data<uint32_t>(), out_device.data<uint32_t>()));
  const std::vector<uint16_t> out = Download<uint16_t>(out_device);
  for (int row = 0; row < 8; ++row) {
    for (int column = 0; column < 8; ++column) EXPECT_EQ(out[row * 8 + column], in[column * 8 + row]);
  }
}

TEST_P(PtxTest, AsynchronousCopiesArriveByGroups) {
  const int pieces = 500;
  std::vector<uint32_t> src(pieces * 4);
  std::iota(src.begin(), src.end(), 1);
  std::vector<int> valid(pieces);
  for (int& v : valid) v = Pick(random(), {0, 1, 1});
  const DeviceMemory src_device = Upload(src), valid_device = Upload(valid),
                     dst_device = Allocate(pieces * 16);
  EXPECT_LAUNCHED(
      ProbeAsyncCopy(stream().ref(), src_device.data(), valid_device.data<int>(), dst_device.data(), pieces));
  const std::vector<uint32_t> dst = Download<uint32_t>(dst_device);
  for (int i = 0; i < pieces * 4; ++i) ASSERT_EQ(dst[i], valid[i / 4] ? src[i] : 0) << i;
}

LOMBARD_FOR_EVERY_GPU_SEED(PtxTest);

}  // namespace
}  // namespace lombard
