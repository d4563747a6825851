#include "kernels/cuda/rms_norm.h"

#include "tests/kernels/cuda/gpu_test.h"
#include "tests/kernels/reference.h"

namespace lombard {
namespace {

class GpuRmsNormTest : public GpuTest {};

// Tolerances: v is exact without a residual, else rounded once; a sum of squares of n terms in chains over
// 256 threads at least, one root, one division, two products; then the rounding of y's type.
TEST_P(GpuRmsNormTest, AgreesWithFloat64) {
  for (const TypePair& types : kGpuTypePairs) {
    for (const int64_t dim : {1, 7, 8, 64, 100, 2048, 3000}) {
      for (const bool with_residual : {false, true}) {
        const int64_t rows = Pick(random(), {1, 3}), pad = Pick(random(), {0, 8, 3}), stride = dim + pad;
        SCOPED_TRACE(testing::Message()
                     << types << ", dim " << dim << ", pad " << pad << (with_residual ? ", residual" : ""));
        const std::vector<float> x =
            Decode(types.in, Encode(types.in, RandomFloats(random(), rows * stride, 10)));
        const std::vector<float> residual = RandomFloats(random(), rows * stride, 10);
        const std::vector<float> weight = RandomFloats(random(), dim);
        const float kept = 7;  // what lies between the rows

        const DeviceMemory x_device = Upload(Encode(types.in, x)), weight_device = Upload(weight);
        const DeviceMemory residual_device = Upload(residual);
        const DeviceMemory y_device = Upload(Encode(types.out, std::vector<float>(rows * stride, kept)));
        GpuRmsNormArgs args;
        args.x = x_device.data(), args.weight = weight_device.data<float>(), args.y = y_device.data();
        if (with_residual) args.residual = residual_device.data<float>();
        args.x_dtype = types.in, args.y_dtype = types.out;
        args.rows = rows, args.dim = dim, args.eps = 1e-5f;
        args.x_stride = args.residual_stride = args.y_stride = stride;
        EXPECT_LAUNCHED(GpuRmsNorm(stream().ref(), args));
        const std::vector<float> y = Decode(types.out, Download<char>(y_device));
        const std::vector<float> sums = Download<float>(residual_device);

        for (int64_t r = 0; r < rows; ++r) {
          std::vector<double> v(dim);
          for (int64_t i = 0; i < dim; ++i) {
            const int64_t at = r * stride + i;
            v[i] = with_residual ? double{x[at] + residual[at]} : double{x[at]};
            ASSERT_EQ(sums[at], with_residual ? x[at] + residual[at] : residual[at]);
          }
          const std::vector<double> expected = RmsNormReference(v, weight.data(), 1e-5f);
          for (int64_t i = 0; i < dim; ++i) {
            const double bound = (dim / 256.0 + 24) * kEpsilon * std::abs(expected[i]);
            ASSERT_NEAR(y[r * stride + i], expected[i],
                        bound + RoundingOf(types.out, std::abs(expected[i]) + bound))
                << "row " << r << ", " << i;
          }
          for (int64_t i = dim; i < stride; ++i) {
            ASSERT_EQ(y[r * stride + i], kept);
            ASSERT_EQ(sums[r * stride + i], residual[r * stride + i]);
          }
        }
      }
    }
  }
}

TEST_P(GpuRmsNormTest, WorksInPlaceAndOnNoRows) {
  const std::vector<float> x = RandomFloats(random(), 2 * 96), weight = RandomFloats(random(), 96);
  const DeviceMemory x_device = Upload(x), in_place = Upload(x), weight_device = Upload(weight);
  const DeviceMemory y_device = Allocate(2 * 96 * 4);
  GpuRmsNormArgs args;
  args.x = x_device.data(), args.weight = weight_device.data<float>(), args.y = y_device.data();
  args.rows = 0, args.dim = args.x_stride = args.y_stride = 96;
  EXPECT_LAUNCHED(GpuRmsNorm(stream().ref(), args));
  args.rows = 2;
  EXPECT_LAUNCHED(GpuRmsNorm(stream().ref(), args));
  args.x = args.y = in_place.data();
  EXPECT_LAUNCHED(GpuRmsNorm(stream().ref(), args));
  EXPECT_EQ(Download<float>(in_place), Download<float>(y_device));
}

LOMBARD_FOR_EVERY_GPU_SEED(GpuRmsNormTest);

}  // namespace
}  // namespace lombard
