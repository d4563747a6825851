#include "runtime/model/create.h"

#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <csignal>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/model/inspect.h"
#include "runtime/model/json_file.h"
#include "runtime/model/presets.h"
#include "runtime/model/weights.h"
#include "tests/runtime/model/checkpoint_files.h"

namespace lombard {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(CreateModel, TinyLoadsAndIsTheSameEveryTime) {
  TempDir a, b, c;
  ASSERT_TRUE(CreateModel("tiny", a.path(), 1).ok());
  ASSERT_TRUE(CreateModel("tiny", b.path(), 1).ok());
  ASSERT_TRUE(CreateModel("tiny", c.path(), 2).ok());
  EXPECT_EQ(a.Read("model.safetensors"), b.Read("model.safetensors"));
  EXPECT_NE(a.Read("model.safetensors"), c.Read("model.safetensors"));
  const auto model = Model::Load(a.path());
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->unused_tensors(), 0);
  EXPECT_EQ((*model)->config().eos_token_ids, std::vector<int32_t>{319});
}

TEST(CreateModel, WeightsHaveTheSpreadTheyShould) {
  TempDir dir;
  ASSERT_TRUE(CreateModel("tiny", dir.path(), 5).ok());
  const auto model = Model::Load(dir.path());
  ASSERT_TRUE(model.ok()) << model.status();
  const auto expect_spread = [](const WeightMatrix& w, double expected) {
    double sum = 0, squares = 0, largest = 0;
    const int64_t n = w.rows * w.cols;
    for (int64_t i = 0; i < n; ++i) {
      const double x = LoadFloat(w.dtype, w.data, i);
      sum += x, squares += x * x, largest = std::max(largest, std::fabs(x));
    }
    // Five standard errors of the mean and of the variance (kurtosis of the sum of four uniforms: 2.7).
    EXPECT_NEAR(sum / n, 0, 5 * expected / std::sqrt(n));
    EXPECT_NEAR(squares / n, expected * expected, 5 * expected * expected * std::sqrt(1.7 / n));
    EXPECT_GT(largest, 2.5 * expected);
    EXPECT_LT(largest, 3.5 * expected);
  };
  expect_spread((*model)->embedding(), 1 / 8.0);
  expect_spread((*model)->layer(1).q, 1 / 8.0);
  expect_spread((*model)->layer(1).o, 1 / std::sqrt(128.0) / 2);
  EXPECT_EQ((*model)->layer(0).input_norm, std::vector<float>(64, 1.0f));
}

// Parameter counts as their owners publish them, to the digit.
TEST(CreateModel, PresetsHaveThePublicSizes) {
  const struct {
    const char* name;
    int64_t parameters, kv_bytes;
  } published[] = {
      {"qwen2.5-0.5b", 494'032'768, 12288},    {"qwen3-0.6b", 596'049'920, 114688},
      {"smollm2-135m", 134'515'008, 23040},    {"llama-3.2-1b", 1'235'814'400, 32768},
      {"mistral-7b", 7'241'732'096, 131072},   {"llama-3-8b", 8'030'261'248, 131072},
      {"llama-2-7b", 6'738'415'616, 524288},   {"llama-2-13b", 13'015'864'320, 819200},
      {"llama-2-70b", 68'976'648'192, 327680},
  };
  for (const auto& [published_name, parameters, kv_bytes] : published) {
    const std::string name = published_name;
    const auto preset = std::find_if(Presets().begin(), Presets().end(),
                                     [&](const ModelPreset& p) { return p.name == name; });
    ASSERT_NE(preset, Presets().end()) << name;
    const auto config = ParseModelConfig(PresetConfigJson(*preset), "");
    ASSERT_TRUE(config.ok()) << name << ": " << config.status();
    int64_t count = 0;
    for (const TensorSpec& tensor : TensorsOf(*config)) count += tensor.bytes() / 2;
    EXPECT_EQ(count, parameters) << name;
    EXPECT_EQ(config->KvBytesPerToken(DType::kBF16), kv_bytes) << name;
  }
  EXPECT_EQ(PresetNames().size(), 10u);
}

// The tokenizer files are JSON, and ids are distinct, within the vocabulary, and all 256 bytes have one.
TEST(CreateModel, TokenizerIdsAreDistinctAndWithinTheVocabulary) {
  TempDir dir;
  ASSERT_TRUE(CreateModel("tiny", dir.path(), 1).ok());
  const auto file = JsonFile::Read(dir.File("tokenizer.json"));
  ASSERT_TRUE(file.ok()) << file.status();
  const auto model = (*file)->fields().Object("model");
  const auto vocab = (*model)->Object("vocab");
  std::set<int64_t> ids;
  for (const auto [token, id] : simdjson::dom::object((*model)->Find("vocab")->get_object())) {
    ids.insert(int64_t{id});
    EXPECT_LE(std::string_view(token).size(), 2u);
  }
  EXPECT_EQ(ids.size(), 256u);
  EXPECT_LT(*ids.rbegin(), 318);
  EXPECT_TRUE(JsonFile::Read(dir.File("tokenizer_config.json")).ok());
}

TEST(CreateModel, AnUnknownPresetListsTheKnownOnes) {
  TempDir dir;
  const absl::Status status = CreateModel("gpt-5", dir.path(), 1);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("gpt-5"), HasSubstr("llama-3.2-1b")));
}

TEST(CreateModel, NeverWritesOverAModel) {
  TempDir dir;
  ASSERT_TRUE(CreateModel("tiny", dir.path(), 1).ok());
  const absl::Status status = CreateModel("tiny", dir.path(), 2);
  EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists) << status;
}

TEST(CreateModel, DiskErrorsLeaveNothingBehind) {
  EXPECT_FALSE(CreateModel("tiny", "/proc/no/such", 1).ok());
  // A file size limit stands for a disk that fills up in the middle of the weights.
  TempDir dir;
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{.rlim_cur = 100'000, .rlim_max = before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const absl::Status status = CreateModel("tiny", dir.path(), 1);
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), HasSubstr("model.safetensors"));
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
}

TEST(InspectModel, SaysShapeBytesAndKvBytesPerToken) {
  TempDir dir;
  ASSERT_TRUE(CreateModel("tiny", dir.path(), 1).ok());
  const auto text = InspectModel(dir.path());
  ASSERT_TRUE(text.ok()) << text.status();
  // 320 * 64 + 2 * (2 * 128 * 64 + 2 * 32 * 64 + 3 * 128 * 64 + 2 * 64) + 64 parameters; KV 2 * 2 * 2 * 16
  // elements.
  EXPECT_THAT(*text,
              AllOf(HasSubstr("LlamaForCausalLM"), HasSubstr("2 layers"),
                    HasSubstr("8 query heads, 2 KV heads of 16"), HasSubstr("110912 (0.000111 billion)"),
                    HasSubstr("443648 bytes"), HasSubstr("256 bytes"), HasSubstr("512 bytes"),
                    HasSubstr("tied"), HasSubstr("319")));
  EXPECT_FALSE(InspectModel(dir.File("absent")).ok());
}

}  // namespace
}  // namespace lombard
