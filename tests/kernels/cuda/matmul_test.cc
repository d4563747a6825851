// Products on a GPU against float64: our own kernels', and those we ask cuBLASLt for (on the emulated device:
// a library that does as its documentation says).
#include "kernels/cuda/matmul.h"

#include <gmock/gmock.h>

#include "kernels/cuda/blas.h"
#include "tests/kernels/cuda/gpu_test.h"
#ifdef LOMBARD_HAS_CUBLAS_LT
#include "tests/kernels/cuda/fake_cublas_lt.h"
#endif

namespace lombard {
namespace {

class GpuMatmulTest : public GpuTest {
 protected:
  // Null: our own kernels.
  void SetBlas(GpuBlas* blas) { blas_ = blas; }
  void AgreesWithFloat64(int shapes);
  // All of y, [rows, y_stride], which begins as `before`.
  std::vector<float> Product(DType dtype, const std::vector<char>& x, const std::vector<char>& w,
                             const std::vector<float>& bias, const std::vector<float>& before,
                             GpuMatmulArgs args, uint64_t w_offset = 0) {
    std::vector<char> shifted(w.size() + w_offset);
    std::memcpy(shifted.data() + w_offset, w.data(), w.size());
    const DeviceMemory x_device = Upload(x), w_device = Upload(shifted), bias_device = Upload(bias),
                       y_device = Upload(before);
    args.dtype = dtype;
    args.x = x_device.data(), args.w = w_device.data<char>() + w_offset, args.y = y_device.data<float>();
    if (!bias.empty()) args.bias = bias_device.data<float>();
    const absl::Status launched =
        blas_ == nullptr ? ToStatus(GpuMatmul(stream().ref(), args)) : blas_->Matmul(stream().ref(), args);
    EXPECT_TRUE(launched.ok()) << launched;
    return Download<float>(y_device);
  }

 private:
  GpuBlas* blas_ = nullptr;
};

// The bound: a sum of k products in one chain at most, plus bias and old value; each addition errs by at most
// a unit roundoff of a partial sum, which never exceeds sum |x w|.
void GpuMatmulTest::AgreesWithFloat64(int shapes) {
  for (int i = 0; i < shapes; ++i) {
    const DType dtype = kAllDTypes[i % 3];
    const int64_t rows = Pick(random(), {1, 1, 2, 3, 4, 5, 7, 8, 9, 33, 70});
    const int64_t n = Pick(random(), {1, 3, 4, 5, 8, 9, 31, 64, 70});
    const int64_t k = Pick(random(), {1, 7, 8, 16, 31, 64, 72, 100, 264, 520, 1030, 1024});
    const int64_t x_stride = k + Pick(random(), {0, 0, 8, 3}), y_stride = n + Pick(random(), {0, 2});
    const bool with_bias = random()() % 2, accumulate = random()() % 2;
    SCOPED_TRACE(testing::Message() << DTypeName(dtype) << ", rows " << rows << ", n " << n << ", k " << k
                                    << ", x_stride " << x_stride << (with_bias ? ", bias" : "")
                                    << (accumulate ? ", accumulate" : ""));
    const std::vector<char> x_bytes = Encode(dtype, RandomFloats(random(), rows * x_stride));
    const std::vector<char> w_bytes = Encode(dtype, RandomFloats(random(), n * k));
    const std::vector<float> x = Decode(dtype, x_bytes), w = Decode(dtype, w_bytes);
    const std::vector<float> bias = RandomFloats(random(), with_bias ? n : 0);
    const std::vector<float> before = RandomFloats(random(), rows * y_stride);
    GpuMatmulArgs args;
    args.rows = rows, args.n = n, args.k = k, args.x_stride = x_stride, args.y_stride = y_stride;
    args.accumulate = accumulate;
    const std::vector<float> y = Product(dtype, x_bytes, w_bytes, bias, before, args);
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t column = 0; column < y_stride; ++column) {
        const float got = y[row * y_stride + column], old = before[row * y_stride + column];
        if (column >= n) {
          ASSERT_EQ(got, old) << "wrote between rows, at " << row << ", " << column;
          continue;
        }
        double sum = 0, magnitude = 0;
        for (int64_t j = 0; j < k; ++j) {
          const double product = double{x[row * x_stride + j]} * w[column * k + j];
          sum += product, magnitude += std::abs(product);
        }
        if (with_bias) sum += bias[column], magnitude += std::abs(bias[column]);
        if (accumulate) sum += old, magnitude += std::abs(old);
        ASSERT_NEAR(got, sum, static_cast<double>(k + 8) * kEpsilon * magnitude) << row << ", " << column;
      }
    }
  }
}

TEST_P(GpuMatmulTest, AgreesWithFloat64OnEveryKindOfShape) { AgreesWithFloat64(24); }

// Where the library has no algorithm for a shape, our kernels do it.
TEST_P(GpuMatmulTest, CublasLtIsAskedForTheSame) {
#if defined(LOMBARD_EMULATED_GPU) && defined(LOMBARD_HAS_CUBLAS_LT)
  auto blas = GpuBlas::Create(stream().device(), FakeCublasLt());
  ASSERT_TRUE(blas.ok()) << blas.status();
  const int before = FakeHeuristicCalls();
#else
  auto blas = GpuBlas::Create(stream().device());
  if (absl::IsUnavailable(blas.status()))
    GTEST_SKIP() << blas.status().message();  // the library is not there
  ASSERT_TRUE(blas.ok()) << blas.status();
#endif
  SetBlas(blas->get());
  AgreesWithFloat64(24);
#if defined(LOMBARD_EMULATED_GPU) && defined(LOMBARD_HAS_CUBLAS_LT)
  // A shape that comes again is not searched for again.
  const std::vector<char> x = Encode(DType::kBF16, RandomFloats(random(), 9 * 16)),
                          w = Encode(DType::kBF16, RandomFloats(random(), 18 * 16));
  GpuMatmulArgs args;
  args.rows = 9, args.n = 18, args.k = 16, args.x_stride = 16, args.y_stride = 18;
  for (int i = 0; i < 3; ++i) Product(DType::kBF16, x, w, {}, std::vector<float>(9 * 18), args);
  EXPECT_LE(FakeHeuristicCalls() - before, 24 + 1);
#endif
}

#if defined(LOMBARD_EMULATED_GPU) && defined(LOMBARD_HAS_CUBLAS_LT)
TEST_P(GpuMatmulTest, WhereCublasLtHasNoAlgorithmOurKernelIs) {
  auto blas = *GpuBlas::Create(stream().device(), FakeCublasLt());
  SetBlas(blas.get());
  for (const int64_t n : {17, 19}) {  // not supported; invalid value
    const std::vector<char> x = Encode(DType::kBF16, RandomFloats(random(), 9 * 16)),
                            w = Encode(DType::kBF16, RandomFloats(random(), n * 16));
    GpuMatmulArgs args;
    args.rows = 9, args.n = n, args.k = 16, args.x_stride = 16, args.y_stride = n;
    Product(DType::kBF16, x, w, {}, std::vector<float>(9 * n), args);
  }
}

TEST_P(GpuMatmulTest, FailuresOfCublasLtAreErrorsOrReported) {
  CublasLt library = FakeCublasLt();
  library.MatmulPreferenceSetAttribute = [](auto...) { return CUBLAS_STATUS_EXECUTION_FAILED; };
  library.MatmulDescDestroy = [](cublasLtMatmulDesc_t desc) {
    static_cast<void>(FakeCublasLt().MatmulDescDestroy(desc));
    return CUBLAS_STATUS_NOT_INITIALIZED;
  };
  auto blas = *GpuBlas::Create(stream().device(), library);
  const DeviceMemory memory = Allocate(4096);
  GpuMatmulArgs args;
  args.dtype = DType::kBF16, args.rows = 9, args.n = 16, args.k = 16, args.x_stride = 16, args.y_stride = 16;
  args.x = memory.data(), args.w = memory.data<char>() + 1024, args.y = memory.data<float>() + 512;
  testing::internal::CaptureStderr();
  const absl::Status failed = blas->Matmul(stream().ref(), args);
  EXPECT_THAT(testing::internal::GetCapturedStderr(), testing::StartsWith("cublasLtMatmulDescDestroy: "));
  EXPECT_THAT(std::string(failed.message()), testing::StartsWith("cublasLtMatmulPreferenceSetAttribute: "));
}
#endif

TEST_P(GpuMatmulTest, WeightsMayStartAtAnyElement) {
  const int64_t rows = 3, n = 9, k = 64;
  for (const DType dtype : kAllDTypes) {
    const std::vector<char> x = Encode(dtype, RandomFloats(random(), rows * k)),
                            w = Encode(dtype, RandomFloats(random(), n * k));
    const std::vector<float> before(rows * n);
    GpuMatmulArgs args;
    args.rows = rows, args.n = n, args.k = k, args.x_stride = k, args.y_stride = n;
    const std::vector<float> aligned = Product(dtype, x, w, {}, before, args);
    const std::vector<float> shifted = Product(dtype, x, w, {}, before, args, DTypeBytes(dtype));
    for (int64_t i = 0; i < rows * n; ++i)  // another order of the same sum
      ASSERT_NEAR(aligned[i], shifted[i], 2 * static_cast<double>(k + 8) * kEpsilon * static_cast<double>(k));
  }
}

// Decoding alone or in a small batch: the same bits.
TEST_P(GpuMatmulTest, ARowOfFewGivesTheSameBitsInAnyBatch) {
  const int64_t n = 13, k = 1032;
  const std::vector<char> x = Encode(DType::kBF16, RandomFloats(random(), kGpuFewRowsMax * k)),
                          w = Encode(DType::kBF16, RandomFloats(random(), n * k));
  GpuMatmulArgs args;
  args.n = n, args.k = k, args.x_stride = k, args.y_stride = n, args.rows = kGpuFewRowsMax;
  const std::vector<float> before(kGpuFewRowsMax * n);
  const std::vector<float> all = Product(DType::kBF16, x, w, {}, before, args);
  for (const int64_t rows : {1, 2, 4, 5}) {
    args.rows = rows;
    std::vector<float> some = Product(DType::kBF16, x, w, {}, before, args);
    some.resize(rows * n);
    ASSERT_EQ(some, std::vector<float>(all.begin(), all.begin() + rows * n)) << rows << " rows";
  }
}

LOMBARD_FOR_EVERY_GPU_SEED(GpuMatmulTest);

}  // namespace
}  // namespace lombard
