// SwiGLU, embedding, RoPE with the append to KV blocks.
#include <numeric>

#include "kernels/cuda/embed.h"
#include "kernels/cuda/rope_append.h"
#include "kernels/cuda/swiglu.h"
#include "tests/kernels/cuda/gpu_test.h"
#include "tests/kernels/reference.h"

namespace lombard {
namespace {

class GpuElementwiseTest : public GpuTest {};

// exp errs by 2 units in the last place at most (CUDA's list), then an addition, a division and a product.
constexpr double kSwiGluError = 2 * 0x1p-23 + 4 * kEpsilon;

TEST_P(GpuElementwiseTest, SwiGluAgreesWithFloat64) {
  for (const TypePair& types : kGpuTypePairs) {
    for (const int64_t dim : {1, 8, 100, 264, 2048, 2056}) {
      const int64_t rows = 4, stride = 2 * dim + Pick(random(), {0, 8, 1});
      SCOPED_TRACE(testing::Message() << types << ", dim " << dim << ", stride " << stride);
      std::vector<float> both = RandomFloats(random(), rows * stride, 30);
      both[0] = -100, both[stride] = 100;
      const std::vector<char> bytes = Encode(types.in, both);
      both = Decode(types.in, bytes);
      const DeviceMemory in = Upload(bytes),
                         out = Upload(std::vector<char>(rows * dim * DTypeBytes(types.out)));
      GpuSwiGluArgs args;
      args.gate = in.data(), args.up = in.data<char>() + dim * DTypeBytes(types.in), args.y = out.data();
      args.in_dtype = types.in, args.y_dtype = types.out;
      args.rows = rows, args.dim = dim, args.in_stride = stride, args.y_stride = dim;
      EXPECT_LAUNCHED(GpuSwiGlu(stream().ref(), args));
      const std::vector<float> y = Decode(types.out, Download<char>(out));
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t i = 0; i < dim; ++i) {
          const double gate = both[r * stride + i], up = both[r * stride + dim + i];
          const double expected = SwiGluReference(gate, up);
          const double bound = kSwiGluError * std::abs(expected) + 1e-30;  // smaller results may vanish
          ASSERT_NEAR(y[r * dim + i], expected, bound + RoundingOf(types.out, std::abs(expected) + bound))
              << gate << ", " << up;
        }
      }
    }
  }
}

TEST_P(GpuElementwiseTest, EmbedPicksRowsOfEveryType) {
  const int64_t vocab = 11;
  const std::vector<int32_t> ids = {10, 0, 3, 3};
  for (const TypePair& types : kGpuTypePairs) {
    for (const int64_t dim : {1, 37, 64, 2200}) {
      // The pairs the other way round: whatever the table is, to fp32.
      const DType table_dtype = types.out, y_dtype = types.in;
      const std::vector<char> bytes = Encode(table_dtype, RandomFloats(random(), vocab * dim));
      const std::vector<float> table = Decode(table_dtype, bytes);
      const DeviceMemory table_device = Upload(bytes), ids_device = Upload(ids);
      const DeviceMemory y_device = Allocate(ids.size() * dim * DTypeBytes(y_dtype));
      EXPECT_LAUNCHED(
          GpuEmbed(stream().ref(), {table_device.data(), ids_device.data<int32_t>(), y_device.data(),
                                    table_dtype, y_dtype, int64_t(ids.size()), dim}));
      const std::vector<float> y = Decode(y_dtype, Download<char>(y_device));
      for (size_t r = 0; r < ids.size(); ++r) {
        for (int64_t i = 0; i < dim; ++i) ASSERT_EQ(y[r * dim + i], table[ids[r] * dim + i]) << types << dim;
      }
    }
  }
}

TEST_P(GpuElementwiseTest, RopeAgreesWithFloat64AndKeysAndValuesReachTheirSlots) {
  for (const TypePair& types : kGpuTypePairs) {
    for (const int head_dim : {2, 8, 64, 80, 96, 128}) {
      KvLayout layout;
      layout.dtype = types.out, layout.head_dim = head_dim;
      layout.kv_heads = Pick(random(), {1, 2}), layout.block_tokens = Pick(random(), {1, 16, 32});
      const int q_heads = layout.kv_heads * Pick(random(), {1, 3}), heads = q_heads + 2 * layout.kv_heads;
      const DType q_dtype = Pick(random(), {0, 1}) == 0 ? types.in : types.out;
      const int64_t rows = 4, stride = heads * head_dim + Pick(random(), {0, 8, 5});
      SCOPED_TRACE(testing::Message() << types << ", head_dim " << head_dim << ", " << q_heads
                                      << " heads for " << layout.kv_heads << ", stride " << stride);
      const float factor = 1.25f;
      const int half = head_dim / 2;
      std::vector<double> inv_freq(half);
      for (int i = 0; i < half; ++i) inv_freq[i] = std::pow(500000.0, -2.0 * i / head_dim);
      const std::vector<int32_t> positions = {0, 17, 131071, 0};
      const std::vector<char> bytes = Encode(types.in, RandomFloats(random(), rows * stride));
      const std::vector<float> x = Decode(types.in, bytes);
      // Rows 0 and 2 share a block where it has room; row 3 fills a step up and stores nothing.
      const int blocks = 2;
      std::vector<int32_t> slots = {0, 0, layout.block_tokens - 1, 0}, block_of = {0, 1, 0, -1};
      if (layout.block_tokens == 1) block_of[2] = -1, slots[2] = 0;

      const DeviceMemory in = Upload(bytes), positions_device = Upload(positions),
                         frequencies = Upload(inv_freq), slots_device = Upload(slots),
                         blocks_device = Upload(block_of);
      const std::vector<char> empty(blocks * layout.block_bytes(), '\xff');  // NaN
      const DeviceMemory k_store = Upload(empty), v_store = Upload(empty);
      const DeviceMemory q_out = Allocate(rows * q_heads * head_dim * DTypeBytes(q_dtype));
      const auto part = [&](int64_t head) {
        return in.data<char>() + head * head_dim * DTypeBytes(types.in);
      };
      GpuRopeAppendArgs args;
      args.q = part(0), args.k = part(q_heads), args.v = part(q_heads + layout.kv_heads);
      args.in_dtype = types.in, args.q_stride = args.k_stride = args.v_stride = stride;
      args.rows = static_cast<int>(rows), args.q_heads = q_heads;
      args.positions = positions_device.data<int32_t>(), args.inv_freq = frequencies.data<double>();
      args.attention_factor = factor;
      args.q_out = q_out.data(), args.q_dtype = q_dtype, args.q_out_stride = q_heads * head_dim;
      args.layout = layout, args.slots = slots_device.data<int32_t>();
      args.k_slab = k_store.data(), args.v_slab = v_store.data();
      args.blocks = blocks_device.data<int32_t>();
      EXPECT_LAUNCHED(GpuRopeAppend(stream().ref(), args));

      const std::vector<float> q = Decode(q_dtype, Download<char>(q_out)),
                               k = Decode(layout.dtype, Download<char>(k_store)),
                               v = Decode(layout.dtype, Download<char>(v_store));
      std::vector<char> written(k.size(), 0);
      for (int64_t r = 0; r < rows; ++r) {
        for (int head = 0; head < q_heads + layout.kv_heads; ++head) {
          const bool is_key = head >= q_heads;
          if (is_key && block_of[r] < 0) continue;
          const int64_t to =
              is_key ? block_of[r] * layout.block_elements() + layout.offset(head - q_heads, slots[r])
                     : (r * q_heads + head) * head_dim;
          const std::vector<float>& got = is_key ? k : q;
          const DType dtype = is_key ? layout.dtype : q_dtype;
          for (int i = 0; i < half; ++i) {
            const float low = x[r * stride + head * head_dim + i],
                        high = x[r * stride + head * head_dim + half + i];
            const auto expected = RopeReference(low, high, positions[r] * inv_freq[i], factor);
            const double bound = 4 * kEpsilon * factor * (std::abs(low) + std::abs(high));
            ASSERT_NEAR(got[to + i], expected.low, bound + RoundingOf(dtype, std::abs(expected.low) + bound))
                << "row " << r << ", head " << head << ", " << i;
            ASSERT_NEAR(got[to + half + i], expected.high,
                        bound + RoundingOf(dtype, std::abs(expected.high) + bound))
                << "row " << r << ", head " << head << ", " << i;
          }
          if (!is_key) continue;
          for (int d = 0; d < head_dim; ++d) {
            const float value = x[r * stride + (head + layout.kv_heads) * head_dim + d];
            ASSERT_NEAR(v[to + d], value, RoundingOf(layout.dtype, value));
            written[to + d] = 1;
          }
        }
      }
      for (size_t i = 0; i < written.size(); ++i) {  // and nothing else
        ASSERT_EQ(std::isnan(k[i]), written[i] == 0) << i;
        ASSERT_EQ(std::isnan(v[i]), written[i] == 0) << i;
      }
    }
  }
}

LOMBARD_FOR_EVERY_GPU_SEED(GpuElementwiseTest);

}  // namespace
}  // namespace lombard
