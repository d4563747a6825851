// Goal: a plan with shared spans gives every row what float64 gives over all its keys, and reads the keys of
// a shared span once. Method: a tree of two levels over random KV, decodes and a prefill chunk, small scores
// and scores around 1,000. Tolerance: a score is a dot product of d terms of fp32, so it is off by at most (d
// + 2) 2^-24 times the sum of its terms' magnitudes, e; every weight by a factor of at most exp(2 e), and the
// output by expm1(2 e) times the largest |v|, plus 1e-5 of it for exp, sums and merges.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "distattn/step_attention.h"

namespace lombard {
namespace {

constexpr int kBlock = 16, kHeads = 8, kKvHeads = 2, kHeadDim = 64, kLayers = 2;
constexpr float kScale = 0.125f;

struct TestRows {
  std::vector<BlockId> blocks;
  int tokens;  // this step's included
  int rows;
};

class SharedSpanTest : public testing::TestWithParam<float> {
 protected:
  SharedSpanTest() {
    storage_ = *KvStorage::Create(
        {.dtype = DType::kF32, .kv_heads = kKvHeads, .head_dim = kHeadDim, .block_tokens = kBlock}, kLayers,
        64);
    for (int layer = 0; layer < kLayers; ++layer) {
      for (uint32_t block = 0; block < 64; ++block) {
        for (std::byte* bytes : {storage_->k(layer, BlockId{block}), storage_->v(layer, BlockId{block})}) {
          auto* values = reinterpret_cast<float*>(bytes);
          for (int64_t i = 0; i < storage_->layout().block_elements(); ++i) values[i] = normal_(random_);
        }
      }
    }
  }

  std::vector<float> Random(size_t count, float scale) {
    std::vector<float> values(count);
    for (float& value : values) value = scale * normal_(random_);
    return values;
  }

  // One value of a token's K (or V) of a KV head.
  static float At(const std::byte* block, int kv_head, int slot, int d) {
    return reinterpret_cast<const float*>(block)[(int64_t{kv_head} * kBlock + slot) * kHeadDim + d];
  }

  // Of row `row` of the sequence, head `head`: the exact output and the bound of its error.
  double Exact(const TestRows& s, int row, int layer, int head, const float* q,
               std::vector<double>* out) const {
    const int keys = s.tokens - s.rows + row + 1, kv_head = head / (kHeads / kKvHeads);
    std::vector<double> scores(keys);
    double error = 0, value_max = 0;
    for (int t = 0; t < keys; ++t) {
      const std::byte* k = storage_->k(layer, s.blocks[t / kBlock]);
      double size = 0;
      for (int d = 0; d < kHeadDim; ++d) {
        const double term = double{q[d]} * At(k, kv_head, t % kBlock, d) * kScale;
        scores[t] += term, size += std::abs(term);
      }
      error = std::max(error, (kHeadDim + 2) * std::ldexp(size, -24));
    }
    const double max = *std::max_element(scores.begin(), scores.end());
    double sum = 0;
    out->assign(kHeadDim, 0);
    for (int t = 0; t < keys; ++t) {
      const double weight = std::exp(scores[t] - max);
      const std::byte* v = storage_->v(layer, s.blocks[t / kBlock]);
      sum += weight;
      for (int d = 0; d < kHeadDim; ++d) {
        (*out)[d] += weight * At(v, kv_head, t % kBlock, d);
        value_max = std::max(value_max, std::abs(double{At(v, kv_head, t % kBlock, d)}));
      }
    }
    for (double& value : *out) value /= sum;
    return (std::expm1(2 * error) + 1e-5) * value_max;
  }

  std::mt19937 random_{17};
  std::normal_distribution<float> normal_;
  std::unique_ptr<KvStorage> storage_;
};

TEST_P(SharedSpanTest, GivesWhatFloat64GivesAndReadsSharedKeysOnce) {
  const auto ids = [](uint32_t first, uint32_t count) {
    std::vector<BlockId> blocks;
    for (uint32_t i = 0; i < count; ++i) blocks.push_back(BlockId{first + i});
    return blocks;
  };
  const std::vector<BlockId> top = ids(0, 6), middle = ids(6, 3);
  std::vector<TestRows> sequences;
  for (uint32_t i = 0; i < 5; ++i) {
    TestRows s{.blocks = top, .tokens = 0, .rows = i == 3 ? 5 : 1};
    if (i < 3) s.blocks.insert(s.blocks.end(), middle.begin(), middle.end());
    const std::vector<BlockId> own = ids(20 + 4 * i, 1 + i % 2);
    s.blocks.insert(s.blocks.end(), own.begin(), own.end());
    s.tokens = static_cast<int>(s.blocks.size()) * kBlock - static_cast<int>(i);
    sequences.push_back(s);
  }

  AttentionPlan apart, together;
  for (const TestRows& s : sequences) {
    SequenceRows rows{.first_row = apart.rows(), .rows = s.rows, .first_position = s.tokens - s.rows};
    for (int p = s.tokens - s.rows; p < s.tokens; ++p)
      apart.new_kv.push_back({s.blocks[p / kBlock], p % kBlock});
    rows.spans = {LocalSpan{.blocks = s.blocks, .first_position = 0, .token_count = s.tokens}};
    apart.sequences.push_back(rows);
  }
  together = apart;
  together.shared.resize(2);
  together.shared[0].span = {.blocks = top, .first_position = 0, .token_count = 6 * kBlock};
  together.shared[0].readers = {0, 1, 2, 3, 4};
  together.shared[1].span = {.blocks = middle, .first_position = 6 * kBlock, .token_count = 3 * kBlock};
  together.shared[1].readers = {0, 1, 2};
  int keys_apart = 0, keys_together = 9 * kBlock;
  for (size_t i = 0; i < sequences.size(); ++i) {
    const int shared = (i < 3 ? 9 : 6) * kBlock;
    auto& own = std::get<LocalSpan>(together.sequences[i].spans[0]);
    own.blocks.erase(own.blocks.begin(), own.blocks.begin() + shared / kBlock);
    own.first_position = shared, own.token_count -= shared;
    keys_apart += sequences[i].tokens, keys_together += sequences[i].tokens - shared;
  }

  const size_t rows = apart.rows();
  StepAttention attention({.q_heads = kHeads, .scale = kScale, .layer_windows = {0, 0}},
                          {DetectIsa(), nullptr}, storage_.get(), nullptr);
  for (int layer = 0; layer < kLayers; ++layer) {
    std::vector<float> q = Random(rows * kHeads * kHeadDim, GetParam());
    const std::vector<float> k = Random(rows * kKvHeads * kHeadDim, 1), v = Random(k.size(), 1);
    for (const AttentionPlan* plan : {&apart, &together}) {
      std::vector<float> out(q.size());
      attention.Begin(1, plan);
      ASSERT_TRUE(attention.Attend(layer, q.data(), k.data(), v.data(), out.data()).ok());
      EXPECT_EQ(attention.keys_read(), plan == &apart ? keys_apart : keys_together);
      size_t at = 0;  // row and head
      for (size_t i = 0; i < sequences.size(); ++i) {
        for (int row = 0; row < sequences[i].rows; ++row) {
          for (int head = 0; head < kHeads; ++head, ++at) {
            std::vector<double> exact;
            const double bound = Exact(sequences[i], row, layer, head, q.data() + at * kHeadDim, &exact);
            for (int d = 0; d < kHeadDim; ++d) {
              ASSERT_NEAR(out[at * kHeadDim + d], exact[d], bound)
                  << (plan == &apart ? "apart" : "together") << ", sequence " << i << " row " << row
                  << " head " << head << " element " << d;
            }
          }
        }
      }
    }
  }
}

// Scores of standard deviation 1, and of about 1,000.
INSTANTIATE_TEST_SUITE_P(Scores, SharedSpanTest, testing::Values(1.0f, 1000.0f));

}  // namespace
}  // namespace lombard
