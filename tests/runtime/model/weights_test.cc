#include "runtime/model/weights.h"

#include <algorithm>

#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/runtime/model/checkpoint_files.h"

namespace lombard {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr const char* kTied = R"("tie_word_embeddings": true)";

std::vector<TensorSpec> Without(std::vector<TensorSpec> tensors, const std::string& name) {
  std::erase_if(tensors, [&](const TensorSpec& t) { return t.name == name; });
  return tensors;
}

std::unique_ptr<Model> Good(const TempDir& dir) {
  auto model = Model::Load(dir.path());
  EXPECT_TRUE(model.ok()) << model.status();
  CHECK(model.ok()) << model.status();
  return *std::move(model);
}

void ExpectPattern(const WeightMatrix& matrix, const std::string& name) {
  for (int64_t i = 0; i < matrix.rows * matrix.cols; ++i) {
    ASSERT_EQ(LoadFloat(matrix.dtype, matrix.data, i), PatternValue(name, i)) << name << " at " << i;
  }
}

void ExpectPattern(const std::vector<float>& vector, const std::string& name, int64_t size) {
  ASSERT_EQ(vector.size(), size) << name;
  for (int64_t i = 0; i < size; ++i) ASSERT_EQ(vector[i], PatternValue(name, i)) << name << " at " << i;
}

TEST(Model, HasEveryTensorInItsPlaceInEveryDType) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    TempDir dir;
    dir.Write("config.json", SmallConfig());
    WritePattern(dir.File("model.safetensors"), SmallTensors(dtype));
    const auto model = Good(dir);
    EXPECT_EQ(model->config().dtype, dtype) << "the file decides, not torch_dtype";
    EXPECT_EQ(model->embedding().rows, 10);
    EXPECT_EQ(model->embedding().cols, 8);
    ExpectPattern(model->embedding(), "model.embed_tokens.weight");
    ExpectPattern(model->lm_head(), "lm_head.weight");
    ExpectPattern({model->final_norm().begin(), model->final_norm().end()}, "model.norm.weight", 8);
    int64_t bytes = 0;
    for (const TensorSpec& tensor : SmallTensors(dtype)) bytes += tensor.bytes();
    EXPECT_EQ(model->weight_bytes(), bytes);
    EXPECT_EQ(model->copied_bytes(), 0);
    for (int i = 0; i < 2; ++i) {
      const std::string p = absl::StrCat("model.layers.", i, ".");
      const LayerWeights& layer = model->layer(i);
      ExpectPattern(layer.q, p + "self_attn.q_proj.weight");
      ExpectPattern(layer.k, p + "self_attn.k_proj.weight");
      ExpectPattern(layer.v, p + "self_attn.v_proj.weight");
      ExpectPattern(layer.o, p + "self_attn.o_proj.weight");
      ExpectPattern(layer.gate, p + "mlp.gate_proj.weight");
      ExpectPattern(layer.up, p + "mlp.up_proj.weight");
      ExpectPattern(layer.down, p + "mlp.down_proj.weight");
      ExpectPattern(layer.input_norm, p + "input_layernorm.weight", 8);
      ExpectPattern(layer.post_attention_norm, p + "post_attention_layernorm.weight", 8);
      EXPECT_EQ(layer.o.rows, 8);
      EXPECT_EQ(layer.o.cols, 16);
      EXPECT_TRUE(layer.q_bias.empty() && layer.o_bias.empty() && layer.up_bias.empty() &&
                  layer.q_norm.empty());
    }
  }
}

TEST(Model, BiasesAndHeadNormsAreReadAsFloat32) {
  TempDir dir;
  dir.Write("config.json", SmallConfig(R"("attention_bias": true, "mlp_bias": true)"));
  std::vector<TensorSpec> tensors = SmallTensors(DType::kBF16);
  for (const char* p : {"model.layers.0.", "model.layers.1."}) {
    for (const auto& [name, size] :
         std::vector<std::pair<std::string, int64_t>>{{"self_attn.q_proj.bias", 16},
                                                      {"self_attn.k_proj.bias", 8},
                                                      {"self_attn.v_proj.bias", 8},
                                                      {"self_attn.o_proj.bias", 8},
                                                      {"mlp.gate_proj.bias", 12},
                                                      {"mlp.up_proj.bias", 12},
                                                      {"mlp.down_proj.bias", 8},
                                                      {"self_attn.q_norm.weight", 4},
                                                      {"self_attn.k_norm.weight", 4}}) {
      tensors.push_back({p + name, DType::kF16, {size}});
    }
  }
  WritePattern(dir.File("model.safetensors"), tensors);
  const auto llama = Good(dir);
  const LayerWeights& layer = llama->layer(1);
  ExpectPattern(layer.q_bias, "model.layers.1.self_attn.q_proj.bias", 16);
  ExpectPattern(layer.k_bias, "model.layers.1.self_attn.k_proj.bias", 8);
  ExpectPattern(layer.v_bias, "model.layers.1.self_attn.v_proj.bias", 8);
  ExpectPattern(layer.o_bias, "model.layers.1.self_attn.o_proj.bias", 8);
  ExpectPattern(layer.gate_bias, "model.layers.1.mlp.gate_proj.bias", 12);
  ExpectPattern(layer.up_bias, "model.layers.1.mlp.up_proj.bias", 12);
  ExpectPattern(layer.down_bias, "model.layers.1.mlp.down_proj.bias", 8);
  EXPECT_TRUE(layer.q_norm.empty());

  dir.Write("config.json", absl::StrReplaceAll(SmallConfig(), {{"Llama", "Qwen3"}, {"llama", "qwen3"}}));
  const auto qwen = Good(dir);
  ExpectPattern(qwen->layer(0).q_norm, "model.layers.0.self_attn.q_norm.weight", 4);
  ExpectPattern(qwen->layer(0).k_norm, "model.layers.0.self_attn.k_norm.weight", 4);
  EXPECT_TRUE(qwen->layer(0).q_bias.empty());
}

TEST(Model, TiedEmbeddingsMayBeStoredUnderEitherNameOrBoth) {
  TempDir dir;
  dir.Write("config.json", SmallConfig(kTied));
  WritePattern(dir.File("model.safetensors"), Without(SmallTensors(), "lm_head.weight"));
  auto model = Good(dir);
  EXPECT_EQ(model->lm_head().data, model->embedding().data);
  ExpectPattern(model->embedding(), "model.embed_tokens.weight");

  WritePattern(dir.File("model.safetensors"), Without(SmallTensors(), "model.embed_tokens.weight"));
  model = Good(dir);
  EXPECT_EQ(model->lm_head().data, model->embedding().data);
  ExpectPattern(model->embedding(), "lm_head.weight");

  WritePattern(dir.File("model.safetensors"),
               SmallTensors());  // both, and they differ: what is stored counts
  model = Good(dir);
  ExpectPattern(model->embedding(), "model.embed_tokens.weight");
  ExpectPattern(model->lm_head(), "lm_head.weight");
}

TEST(Model, TiedEmbeddingsStoredTwiceAreUsedOnce) {
  TempDir dir;
  dir.Write("config.json", SmallConfig(kTied));
  auto writer = SafetensorsWriter::Create(dir.File("model.safetensors"), SmallTensors());
  ASSERT_TRUE(writer.ok());
  int64_t bytes = 0;
  for (TensorSpec tensor : SmallTensors()) {
    bytes += tensor.bytes();
    if (tensor.name == "lm_head.weight") tensor.name = "model.embed_tokens.weight";
    const std::string data = PatternBytes(tensor);
    ASSERT_TRUE((*writer)->Append({reinterpret_cast<const std::byte*>(data.data()), data.size()}).ok());
  }
  ASSERT_TRUE((*writer)->Finish().ok());
  const auto model = Good(dir);
  EXPECT_EQ(model->lm_head().data, model->embedding().data);
  EXPECT_EQ(model->weight_bytes(), bytes - 10 * 8 * 4);
}

TEST(Model, UntiedWithoutOutputMatrixSaysWhatToDo) {
  TempDir dir;
  dir.Write("config.json", SmallConfig());
  WritePattern(dir.File("model.safetensors"), Without(SmallTensors(), "lm_head.weight"));
  EXPECT_THAT(std::string(Model::Load(dir.path()).status().message()),
              AllOf(HasSubstr("lm_head.weight"), HasSubstr("tie_word_embeddings")));
}

// The tensors of SmallTensors over two shards, layer 1 in the second one, plus what `extra` adds to the map.
void WriteShards(const TempDir& dir, const std::string& extra) {
  std::vector<TensorSpec> parts[2];
  std::string map;
  for (const TensorSpec& tensor : SmallTensors()) {
    const int part = tensor.name.find("layers.1.") != std::string::npos;
    parts[part].push_back(tensor);
    absl::StrAppend(&map, map.empty() ? "" : ",", "\"", tensor.name, "\":\"part", part, ".safetensors\"");
  }
  for (int part = 0; part < 2; ++part)
    WritePattern(dir.File(absl::StrCat("part", part, ".safetensors")), parts[part]);
  dir.Write("model.safetensors.index.json",
            absl::StrCat(R"({"metadata": {"total_size": 1}, "weight_map": {)", map, extra, "}}"));
}

TEST(Model, ShardsGiveTheSameModelAsOneFile) {
  TempDir one, two;
  one.Write("config.json", SmallConfig());
  two.Write("config.json", SmallConfig());
  WritePattern(one.File("model.safetensors"), SmallTensors());
  // An index may name tensors that its shards do not hold, and shards that are not there.
  WriteShards(
      two,
      R"(,"model.layers.0.self_attn.rotary_emb.inv_freq":"part0.safetensors","vision.weight":"part7.safetensors")");
  const auto a = Good(one), b = Good(two);
  ExpectPattern(b->layer(1).down, "model.layers.1.mlp.down_proj.weight");
  EXPECT_EQ(a->fingerprint(), b->fingerprint());
  EXPECT_EQ(a->weight_bytes(), b->weight_bytes());
  EXPECT_EQ(b->checkpoint().files().size(), 2u);
}

TEST(Model, AMissingShardIsNamedWithTheTensorThatNeedsIt) {
  TempDir dir;
  dir.Write("config.json", SmallConfig());
  WriteShards(dir, "");
  std::filesystem::remove(dir.File("part1.safetensors"));
  const auto model = Model::Load(dir.path());
  EXPECT_EQ(model.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(model.status().message()),
              AllOf(HasSubstr("part1.safetensors"), HasSubstr("model.layers.1.self_attn.q_proj.weight")));
}

TEST(Model, ABrokenIndexIsAnError) {
  TempDir dir;
  dir.Write("config.json", SmallConfig());
  for (const auto& [index, said] : std::vector<std::pair<std::string, std::string>>{
           {"{", "JSON"},
           {"{}", "weight_map"},
           {R"({"weight_map": 3})", "weight_map"},
           {R"({"weight_map": {"a": 3}})", "a"},
           {R"({"weight_map": {"a": "../../etc/passwd"}})", "same directory"},
           {R"({"weight_map": {}})", "model.embed_tokens.weight"}}) {
    dir.Write("model.safetensors.index.json", index);
    const auto model = Model::Load(dir.path());
    EXPECT_FALSE(model.ok()) << index;
    EXPECT_THAT(std::string(model.status().message()),
                AllOf(HasSubstr("model.safetensors.index.json"), HasSubstr(said)))
        << index;
  }
}

TEST(Model, ADirectoryWithoutSafetensorsSaysWhatItFound) {
  TempDir dir;
  dir.Write("config.json", SmallConfig());
  EXPECT_THAT(std::string(Model::Load(dir.path()).status().message()), HasSubstr("no weights at all"));
  dir.Write("pytorch_model.bin", "");
  EXPECT_THAT(std::string(Model::Load(dir.path()).status().message()), HasSubstr("pytorch_model.bin"));
}

TEST(Model, EveryMissingTensorIsNamed) {
  TempDir dir;
  dir.Write("config.json", SmallConfig());
  for (const TensorSpec& tensor : SmallTensors()) {
    WritePattern(dir.File("model.safetensors"), Without(SmallTensors(), tensor.name));
    const auto model = Model::Load(dir.path());
    EXPECT_EQ(model.status().code(), absl::StatusCode::kNotFound) << tensor.name;
    EXPECT_THAT(std::string(model.status().message()),
                AllOf(HasSubstr(tensor.name), HasSubstr("model.safetensors")));
  }
}

TEST(Model, EveryWrongShapeIsNamedWithExpectedAndFound) {
  TempDir dir;
  dir.Write("config.json", SmallConfig());
  for (size_t i = 0; i < SmallTensors().size(); ++i) {
    std::vector<TensorSpec> tensors = SmallTensors();
    tensors[i].shape.back() += 1;
    WritePattern(dir.File("model.safetensors"), tensors);
    const auto model = Model::Load(dir.path());
    EXPECT_EQ(model.status().code(), absl::StatusCode::kInvalidArgument) << tensors[i].name;
    EXPECT_THAT(std::string(model.status().message()),
                AllOf(HasSubstr(tensors[i].name), HasSubstr("expected shape"), HasSubstr("found [")));
  }
}

TEST(Model, QuantisedTensorsAreRefusedByName) {
  TempDir dir;
  dir.Write("config.json", SmallConfig());
  std::string file;
  WritePattern(dir.File("model.safetensors"), SmallTensors(DType::kBF16));
  file = dir.Read("model.safetensors");
  const size_t at = file.find("BF16", file.find("down_proj"));
  dir.Write("model.safetensors", file.replace(at, 4, "I16\" ").erase(at + 5, 1));  // as long as before
  const auto model = Model::Load(dir.path());
  EXPECT_EQ(model.status().code(), absl::StatusCode::kUnimplemented) << model.status();
  EXPECT_THAT(std::string(model.status().message()), AllOf(HasSubstr("down_proj"), HasSubstr("I16")));
}

// Writers without padding put the data anywhere; the values must come out all the same, at aligned addresses.
TEST(Model, UnalignedDataIsReadCorrectly) {
  TempDir dir;
  dir.Write("config.json", SmallConfig());
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    WritePattern(dir.File("model.safetensors"), SmallTensors(dtype));
    std::string file = dir.Read("model.safetensors");
    file.insert(file.find('}', file.rfind("data_offsets")) + 2, 1, ' ');  // one more byte of header
    file[0] = static_cast<char>(file[0] + 1);
    TempDir odd;
    odd.Write("config.json", SmallConfig());
    odd.Write("model.safetensors", file);
    const auto model = Good(odd);
    EXPECT_GT(model->copied_bytes(), 0);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(model->layer(1).down.data) % DTypeBytes(dtype), 0u);
    ExpectPattern(model->layer(1).down, "model.layers.1.mlp.down_proj.weight");
    ExpectPattern(model->layer(0).input_norm, "model.layers.0.input_layernorm.weight", 8);
    EXPECT_EQ(model->fingerprint(), Good(dir)->fingerprint());
  }
}

TEST(Model, TheFingerprintTellsCheckpointsApart) {
  TempDir dir;
  dir.Write("config.json", SmallConfig());
  WritePattern(dir.File("model.safetensors"), SmallTensors());
  const uint64_t original = Good(dir)->fingerprint();
  EXPECT_EQ(original, Good(dir)->fingerprint());

  dir.Write("config.json", absl::StrReplaceAll(SmallConfig(), {{"1e-5", "2e-5"}}));
  EXPECT_NE(original, Good(dir)->fingerprint());
  dir.Write("config.json", SmallConfig(R"("rope_theta": 20000)"));
  EXPECT_NE(original, Good(dir)->fingerprint());

  dir.Write("config.json", SmallConfig());
  std::string file = dir.Read("model.safetensors");
  file.back() ^= 1;  // the last byte of the last tensor, a norm
  dir.Write("model.safetensors", file);
  EXPECT_NE(original, Good(dir)->fingerprint());
  WritePattern(dir.File("model.safetensors"), SmallTensors(DType::kBF16));
  EXPECT_NE(original, Good(dir)->fingerprint());
}

TEST(Model, ATruncatedFileIsRefusedAtEveryLength) {
  TempDir dir;
  dir.Write("config.json", SmallConfig());
  WritePattern(dir.File("model.safetensors"), SmallTensors());
  const std::string file = dir.Read("model.safetensors");
  for (size_t size = 0; size < file.size(); size += size < 4096 ? 37 : 211) {
    dir.Write("model.safetensors", file.substr(0, size));
    const auto model = Model::Load(dir.path());
    ASSERT_FALSE(model.ok()) << size;
    ASSERT_THAT(std::string(model.status().message()), HasSubstr("model.safetensors")) << size;
  }
}

}  // namespace
}  // namespace lombard
