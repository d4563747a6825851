#include "kernels/cuda/merge_states.h"

#include <numeric>

#include "tests/kernels/cuda/gpu_test.h"

namespace lombard {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

class GpuMergeStatesTest : public GpuTest {};

// Tolerances: n parts; each weight errs by exp's 2 units and the rounding of its argument, at most |m| of
// 1000 or so; a product and an addition each, a division.
TEST_P(GpuMergeStatesTest, AgreesWithFloat64OverRaggedParts) {
  for (const DType out_dtype : kAllDTypes) {
    for (const int head_dim : {8, 20, 64, 128}) {
      const int heads = Pick(random(), {1, 3});
      const float score_scale = Pick(random(), {1, 10, 1000});
      std::vector<int32_t> begin = {0};
      for (const int parts : {0, 1, 2, 7, 33}) begin.push_back(begin.back() + parts);
      const int rows = static_cast<int>(begin.size()) - 1, parts = begin.back();
      const bool listed = Pick(random(), {0, 1}) == 1;
      std::vector<int32_t> ids(parts);
      std::iota(ids.begin(), ids.end(), 0);
      if (listed) std::shuffle(ids.begin(), ids.end(), random());
      SCOPED_TRACE(testing::Message() << DTypeName(out_dtype) << ", head_dim " << head_dim << ", " << heads
                                      << " heads, scores to " << score_scale << (listed ? ", listed" : ""));
      std::vector<float> acc = RandomFloats(random(), size_t(parts) * heads * head_dim);
      std::vector<float> max = RandomFloats(random(), size_t(parts) * heads, score_scale);
      std::vector<float> sum = RandomFloats(random(), size_t(parts) * heads);
      for (size_t i = 0; i < max.size(); ++i) {
        sum[i] = 1 + std::abs(sum[i]);
        // A part without keys; the one part of row 1 is such for some heads, so that a row is empty too.
        if (random()() % 4 != 0) continue;
        max[i] = -kInf, sum[i] = 0;
        std::fill_n(acc.begin() + i * head_dim, head_dim, 0.0f);
      }
      const DeviceMemory acc_device = Upload(acc), max_device = Upload(max), sum_device = Upload(sum),
                         begin_device = Upload(begin), ids_device = Upload(ids);
      const size_t items = size_t(rows) * heads;
      const DeviceMemory acc_out = Allocate(items * head_dim * 4), max_out = Allocate(items * 4),
                         sum_out = Allocate(items * 4),
                         out = Allocate(items * head_dim * DTypeBytes(out_dtype));
      GpuMergeStatesArgs args;
      args.acc = acc_device.data<float>(), args.max = max_device.data<float>();
      args.sum = sum_device.data<float>(), args.part_begin = begin_device.data<int32_t>();
      args.part_ids = listed ? ids_device.data<int32_t>() : nullptr;
      args.rows = rows, args.heads = heads, args.head_dim = head_dim;
      args.acc_out = acc_out.data<float>(), args.max_out = max_out.data<float>();
      args.sum_out = sum_out.data<float>(), args.out = out.data(), args.out_dtype = out_dtype;
      EXPECT_LAUNCHED(GpuMergeStates(stream().ref(), args));
      const std::vector<float> got_acc = Download<float>(acc_out), got_max = Download<float>(max_out),
                               got_sum = Download<float>(sum_out),
                               got_out = Decode(out_dtype, Download<char>(out));

      for (int row = 0; row < rows; ++row) {
        for (int head = 0; head < heads; ++head) {
          const size_t item = size_t(row) * heads + head;
          const auto part_at = [&](int i) { return size_t(ids[i]) * heads + head; };
          float largest = -kInf;
          for (int i = begin[row]; i < begin[row + 1]; ++i) largest = std::max(largest, max[part_at(i)]);
          ASSERT_EQ(got_max[item], largest);
          double total = 0;
          std::vector<double> expected(head_dim), magnitude(head_dim);
          for (int i = begin[row]; i < begin[row + 1]; ++i) {
            const size_t at = part_at(i);
            if (sum[at] == 0) continue;
            const double weight = std::exp(double{max[at]} - largest);
            total += weight * sum[at];
            for (int d = 0; d < head_dim; ++d) {
              expected[d] += weight * acc[at * head_dim + d];
              magnitude[d] += std::abs(weight * acc[at * head_dim + d]);
            }
          }
          const int n = begin[row + 1] - begin[row];
          const double factor = (2 * score_scale + 4 + 2 * n + 4) * kEpsilon;
          ASSERT_NEAR(got_sum[item], total, factor * total);
          for (int d = 0; d < head_dim; ++d) {
            const size_t at = item * head_dim + d;
            ASSERT_NEAR(got_acc[at], expected[d], factor * magnitude[d])
                << "row " << row << ", head " << head;
            if (total == 0) {
              ASSERT_EQ(got_out[at], 0);
              continue;
            }
            const double bound = 2 * factor * magnitude[d] / total;
            ASSERT_NEAR(got_out[at], expected[d] / total,
                        bound + RoundingOf(out_dtype, std::abs(expected[d]) / total + bound))
                << "row " << row << ", head " << head;
          }
        }
      }
    }
  }
}

// Few rows and many run by different numbers of warps.
TEST_P(GpuMergeStatesTest, ARowsBitsDoNotDependOnItsBatch) {
  const int heads = 2, head_dim = 8, parts = 75, many = 528;
  std::vector<int32_t> ends(many + 1, parts);
  ends[0] = 0, ends[1] = 70, ends[2] = 70;
  const DeviceMemory acc = Upload(RandomFloats(random(), size_t(parts) * heads * head_dim)),
                     max = Upload(RandomFloats(random(), size_t(parts) * heads)),
                     sum = Upload(std::vector<float>(size_t(parts) * heads, 1.5f)), begin = Upload(ends);
  std::vector<std::vector<float>> results;
  for (const int rows : {1, many}) {
    const DeviceMemory out = Allocate(size_t(rows) * heads * head_dim * 4);
    GpuMergeStatesArgs args;
    args.acc = acc.data<float>(), args.max = max.data<float>(), args.sum = sum.data<float>();
    args.part_begin = begin.data<int32_t>();
    args.rows = rows, args.heads = heads, args.head_dim = head_dim, args.out = out.data();
    EXPECT_LAUNCHED(GpuMergeStates(stream().ref(), args));
    results.push_back(Download<float>(out));
  }
  results[1].resize(results[0].size());
  EXPECT_EQ(results[0], results[1]);
}

LOMBARD_FOR_EVERY_GPU_SEED(GpuMergeStatesTest);

}  // namespace
}  // namespace lombard
