// Real checkpoints: our own tiny one in both forms, and the public ones of ../shared where present.
#include <cmath>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/model/weights.h"
#include "tests/runtime/model/checkpoint_files.h"
#include "tests/support/shared_data.h"

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

// The checkpoints whose logits are compared with those of another runtime elsewhere: here, that each reads as
// what it is.
TEST(Architectures, EveryReferenceCheckpointLoads) {
  const struct {
    std::string name;
    Architecture architecture;
    int q_heads, kv_heads, head_dim;
    bool tied, qkv_bias, qk_norm;
    std::vector<int> windows;
  } cases[] = {
      {"llama-gqa-d64", Architecture::kLlama, 4, 2, 64, false, false, false, {0, 0}},
      {"llama-mha-d80-linear", Architecture::kLlama, 2, 2, 80, false, false, false, {0, 0}},
      {"llama-mqa-d96-llama3-tied", Architecture::kLlama, 3, 1, 96, true, false, false, {0, 0}},
      {"llama-gqa-d128-yarn", Architecture::kLlama, 4, 2, 128, false, false, false, {0, 0}},
      {"llama-biases-d16", Architecture::kLlama, 4, 2, 16, false, true, false, {0, 0}},
      {"mistral-window-d32", Architecture::kMistral, 4, 2, 32, false, false, false, {24, 24, 24}},
      {"qwen2-tied-d64", Architecture::kQwen2, 2, 1, 64, true, true, false, {0}},
      {"qwen2-window-d16", Architecture::kQwen2, 4, 2, 16, false, true, false, {0, 20, 20}},
      {"qwen3-gqa-d32", Architecture::kQwen3, 4, 2, 32, false, false, true, {0, 0}},
      {"qwen3-yarn-d64-tied", Architecture::kQwen3, 2, 1, 64, true, false, true, {0, 0}},
  };
  for (const auto& expected : cases) {
    const auto model = Good("tests/data/architectures/" + expected.name);
    const ModelConfig& c = model->config();
    EXPECT_EQ(c.architecture, expected.architecture) << expected.name;
    EXPECT_EQ(c.q_heads, expected.q_heads) << expected.name;
    EXPECT_EQ(c.kv_heads, expected.kv_heads) << expected.name;
    EXPECT_EQ(c.head_dim, expected.head_dim) << expected.name;
    EXPECT_EQ(c.tied_embeddings, expected.tied) << expected.name;
    EXPECT_EQ(c.qkv_bias, expected.qkv_bias) << expected.name;
    EXPECT_EQ(c.qk_norm, expected.qk_norm) << expected.name;
    EXPECT_EQ(c.layer_windows, expected.windows) << expected.name;
    EXPECT_EQ(model->unused_tensors(), 0) << expected.name;
    EXPECT_EQ(c.rope.attention_factor != 1, expected.name.find("yarn") != std::string::npos) << expected.name;
  }
}

// The converted llama2.c checkpoint: its own file holds the same floats in another order, which is an
// independent witness.
TEST(Stories260K, TheTensorsEqualTheOriginalFile) {
  const std::string base = absl::StrCat(kSharedData, "/models/");
  LOMBARD_SKIP_WITHOUT(base + "stories260K-hf");
  LOMBARD_SKIP_WITHOUT(base + "stories260K/stories260K.bin");
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
  const std::string base = absl::StrCat(kSharedData, "/models/");
  LOMBARD_SKIP_WITHOUT(base + "stories260K-hf");
  LOMBARD_SKIP_WITHOUT(base + "stories260K-hf-bf16-sharded");
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
