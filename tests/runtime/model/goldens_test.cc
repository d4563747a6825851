// Real checkpoints: our own tiny one in both forms, and the public ones of ../shared where present.
#include <cmath>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/model/weights.h"
#include "tests/runtime/model/checkpoint_files.h"

namespace lombard {
namespace {

using ::testing::ElementsAre;

std::unique_ptr<Model> Good(const std::string& dir) {
  auto model = Model::Load(dir);
  CHECK(model.ok()) << model.status();
  return *std::move(model);
}

TEST(TinyCheckpoint, LoadsInBothForms) {
  const auto plain = Good("tests/data/tiny"), rounded = Good("tests/data/tiny-bf16");
  EXPECT_EQ(plain->config().dtype, DType::kF32);
  EXPECT_EQ(rounded->config().dtype, DType::kBF16);
  EXPECT_EQ(rounded->checkpoint().files().size(), 2u);
  EXPECT_EQ(plain->config().KvBytesPerToken(DType::kF32), 2 * 3 * 2 * 16 * 4);
  EXPECT_EQ(plain->weight_bytes(), 2 * rounded->weight_bytes());
  EXPECT_EQ(plain->lm_head().data, plain->embedding().data);
  EXPECT_EQ(plain->config().eos_token_ids.size(), 2u);
  EXPECT_NE(plain->fingerprint(), rounded->fingerprint());
  // Rounding to bfloat16 moves a value by at most 2^-9 of itself.
  for (int layer = 0; layer < plain->config().layers; ++layer) {
    const WeightMatrix &a = plain->layer(layer).down, &b = rounded->layer(layer).down;
    for (int64_t i = 0; i < a.rows * a.cols; ++i) {
      const float x = LoadFloat(a.dtype, a.data, i), y = LoadFloat(b.dtype, b.data, i);
      ASSERT_LE(std::fabs(x - y), std::fabs(x) * 0x1p-8f) << "layer " << layer << " at " << i;
    }
  }
}

// The converted llama2.c checkpoint: its own file holds the same floats in another order, which is an
// independent witness.
TEST(Stories260K, TheTensorsEqualTheOriginalFile) {
  const std::string base = "../shared/data/models/";
  if (!std::filesystem::exists(base + "stories260K-hf")) GTEST_SKIP() << base << "stories260K-hf is absent";
  const auto model = Good(base + "stories260K-hf");
  EXPECT_EQ(model->config().layers, 5);
  EXPECT_EQ(model->config().kv_heads, 4);
  EXPECT_THAT(model->config().eos_token_ids, ElementsAre(1, 2));
  EXPECT_EQ(model->config().bos_token_id, 1);
  EXPECT_EQ(model->lm_head().data, model->embedding().data);
  const std::string original = TempDir::ReadPath(base + "stories260K/stories260K.bin");
  const auto at = [&](int64_t index) { return LoadFloat(DType::kF32, original.data() + 28, index); };
  // Seven integers, then float32: embedding [512, 64], attention norms [5, 64], wq [5, 64, 64], wk, wv [5,
  // 32, 64], wo, ...
  for (int64_t i = 0; i < 512 * 64; ++i)
    ASSERT_EQ(LoadFloat(DType::kF32, model->embedding().data, i), at(i)) << i;
  for (int64_t layer = 0; layer < 5; ++layer) {
    for (int64_t i = 0; i < 64; ++i)
      ASSERT_EQ(model->layer(layer).input_norm[i], at(512 * 64 + layer * 64 + i));
    const int64_t wv = 512 * 64 + 5 * 64 + 5 * 64 * 64 + 5 * 32 * 64 + layer * 32 * 64;
    for (int64_t i = 0; i < 32 * 64; ++i)
      ASSERT_EQ(LoadFloat(DType::kF32, model->layer(layer).v.data, i), at(wv + i)) << i;
  }
}

TEST(Stories260K, TheShardedBfloat16FormIsTheSameModelRounded) {
  const std::string base = "../shared/data/models/";
  if (!std::filesystem::exists(base + "stories260K-hf-bf16-sharded"))
    GTEST_SKIP() << base << "stories260K-hf-bf16-sharded is absent";
  const auto plain = Good(base + "stories260K-hf"), rounded = Good(base + "stories260K-hf-bf16-sharded");
  EXPECT_EQ(rounded->config().dtype, DType::kBF16);
  for (int layer = 0; layer < 5; ++layer) {
    for (const auto member :
         {&LayerWeights::q, &LayerWeights::k, &LayerWeights::o, &LayerWeights::gate, &LayerWeights::down}) {
      const WeightMatrix &a = plain->layer(layer).*member, &b = rounded->layer(layer).*member;
      for (int64_t i = 0; i < a.rows * a.cols; ++i) {
        ASSERT_EQ(FloatFromBF16(BF16FromFloat(LoadFloat(a.dtype, a.data, i))), LoadFloat(b.dtype, b.data, i));
      }
    }
  }
}

}  // namespace
}  // namespace lombard
