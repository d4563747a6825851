#include "runtime/model/model_config.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/runtime/model/checkpoint_files.h"
#include "tests/support/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace lombard {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

ModelConfig Good(const std::string& json, const std::string& generation = "") {
  const auto config = ParseModelConfig(json, generation);
  EXPECT_TRUE(config.ok()) << config.status();
  return config.ok() ? *config : ModelConfig{};
}

std::string Replace(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  CHECK(at != text.npos) << from;
  return text.replace(at, from.size(), to);
}

std::string ConfigOf(const std::string& name, const std::string& type, const std::string& more = "") {
  return Replace(Replace(SmallConfig(more), "LlamaForCausalLM", name), "\"llama\"", "\"" + type + "\"");
}

TEST(ModelConfig, ReadsALlama) {
  const ModelConfig c = Good(SmallConfig());
  EXPECT_EQ(c.architecture, Architecture::kLlama);
  EXPECT_EQ(c.architecture_name, "LlamaForCausalLM");
  EXPECT_EQ(c.hidden_size, 8);
  EXPECT_EQ(c.layers, 2);
  EXPECT_EQ(c.q_heads, 4);
  EXPECT_EQ(c.kv_heads, 2);
  EXPECT_EQ(c.head_dim, 4);
  EXPECT_EQ(c.intermediate_size, 12);
  EXPECT_EQ(c.vocab_size, 10);
  EXPECT_EQ(c.max_position_embeddings, 64);
  EXPECT_FLOAT_EQ(c.rms_norm_eps, 1e-5f);
  EXPECT_FALSE(c.qkv_bias || c.o_bias || c.mlp_bias || c.qk_norm || c.tied_embeddings);
  EXPECT_THAT(c.layer_windows, ElementsAre(0, 0));
  EXPECT_THAT(c.eos_token_ids, ElementsAre(2));
  EXPECT_EQ(c.bos_token_id, std::nullopt);
  EXPECT_EQ(c.dtype, DType::kF32);
  // 2 * 2 layers * 2 heads * 4 dimensions * bytes.
  EXPECT_EQ(c.KvBytesPerToken(DType::kF32), 128);
  EXPECT_EQ(c.KvBytesPerToken(DType::kBF16), 64);
}

TEST(ModelConfig, ArchitecturesDifferInBiasesAndNorms) {
  const ModelConfig llama = Good(SmallConfig(R"("attention_bias": true, "mlp_bias": true)"));
  EXPECT_TRUE(llama.qkv_bias && llama.o_bias && llama.mlp_bias);
  const ModelConfig mistral = Good(ConfigOf("MistralForCausalLM", "mistral"));
  EXPECT_FALSE(mistral.qkv_bias || mistral.o_bias || mistral.qk_norm);
  const ModelConfig qwen2 = Good(ConfigOf("Qwen2ForCausalLM", "qwen2"));
  EXPECT_TRUE(qwen2.qkv_bias && !qwen2.o_bias && !qwen2.qk_norm);
  const ModelConfig qwen3 = Good(ConfigOf("Qwen3ForCausalLM", "qwen3"));
  EXPECT_TRUE(!qwen3.qkv_bias && !qwen3.o_bias && qwen3.qk_norm);
  EXPECT_EQ(Good(Replace(SmallConfig(), R"("architectures": ["LlamaForCausalLM"], )", "")).architecture_name,
            "LlamaForCausalLM");
}

TEST(ModelConfig, MissingFieldsMeanWhatTheArchitectureMeans) {
  EXPECT_EQ(Good(Replace(SmallConfig(), R"("head_dim": 4, )", "")).head_dim, 2);  // hidden / heads
  EXPECT_EQ(Good(Replace(SmallConfig(), R"("head_dim": 4)", R"("head_dim": null)")).head_dim, 2);
  EXPECT_EQ(Good(Replace(ConfigOf("Qwen3ForCausalLM", "qwen3"), R"("head_dim": 4, )", "")).head_dim, 128);
  EXPECT_EQ(Good(Replace(SmallConfig(), R"("num_key_value_heads": 2, )", "")).kv_heads, 4);  // MHA
  EXPECT_FLOAT_EQ(Good(Replace(SmallConfig(), R"("rms_norm_eps": 1e-5, )", "")).rms_norm_eps, 1e-6f);
}

TEST(ModelConfig, MistralsWindowIsForAllLayers) {
  EXPECT_THAT(Good(ConfigOf("MistralForCausalLM", "mistral", R"("sliding_window": 16)")).layer_windows,
              ElementsAre(16, 16));
  EXPECT_THAT(Good(ConfigOf("MistralForCausalLM", "mistral", R"("sliding_window": null)")).layer_windows,
              ElementsAre(0, 0));
  EXPECT_THAT(Good(ConfigOf("MistralForCausalLM", "mistral")).layer_windows, ElementsAre(4096, 4096));
}

TEST(ModelConfig, QwensWindowNeedsItsSwitchAndItsLayers) {
  const auto windows = [](const std::string& more) {
    return Good(ConfigOf("Qwen2ForCausalLM", "qwen2", more)).layer_windows;
  };
  EXPECT_THAT(windows(R"("sliding_window": 16, "max_window_layers": 1)"), ElementsAre(0, 0));
  EXPECT_THAT(windows(R"("use_sliding_window": true, "sliding_window": 16, "max_window_layers": 1)"),
              ElementsAre(0, 16));
  EXPECT_THAT(windows(R"("use_sliding_window": true, "sliding_window": 16)"),
              ElementsAre(0, 0));  // from layer 28 on
  EXPECT_THAT(
      windows(
          R"("use_sliding_window": true, "sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"])"),
      ElementsAre(16, 0));
  EXPECT_THAT(Good(SmallConfig(R"("sliding_window": 16)")).layer_windows, ElementsAre(0, 0))
      << "a Llama has none";
}

TEST(ModelConfig, StopIdsComeFromBothFiles) {
  EXPECT_THAT(Good(SmallConfig(), R"({"eos_token_id": [3, 4, 3], "bos_token_id": 1})").eos_token_ids,
              ElementsAre(3, 4, 2));
  EXPECT_EQ(Good(SmallConfig(R"("bos_token_id": 5)"), R"({"bos_token_id": 1})").bos_token_id, 1);
  EXPECT_EQ(Good(SmallConfig(R"("bos_token_id": 5)"), "{}").bos_token_id, 5);
  EXPECT_THAT(Good(Replace(SmallConfig(), R"("eos_token_id": 2)", R"("eos_token_id": null)")).eos_token_ids,
              IsEmpty());
  EXPECT_THAT(Good(SmallConfig(), R"({"eos_token_id": [-1, 10, 9]})").eos_token_ids, ElementsAre(9, 2))
      << "10 is outside the vocabulary";
}

TEST(ModelConfig, TheDTypeIsReadUnderItsOldAndNewName) {
  const std::string plain = R"("torch_dtype": "float32", )";
  EXPECT_EQ(Good(Replace(SmallConfig(), plain, R"("torch_dtype": "bfloat16", )")).dtype, DType::kBF16);
  EXPECT_EQ(Good(Replace(SmallConfig(), plain, R"("dtype": "float16", )")).dtype, DType::kF16);
  EXPECT_EQ(Good(Replace(SmallConfig(), plain, R"("torch_dtype": "torch.bfloat16", )")).dtype, DType::kBF16);
  EXPECT_EQ(Good(Replace(SmallConfig(), plain, "")).dtype, DType::kF32);
}

// What we do not run is refused by the name it has in the file.
TEST(ModelConfig, WhatWeDoNotRunIsRefusedByName) {
  const struct {
    std::string json, name;
  } cases[] = {
      {ConfigOf("GPT2LMHeadModel", "gpt2"), "GPT2LMHeadModel"},
      {ConfigOf("MixtralForCausalLM", "mixtral"), "MixtralForCausalLM"},
      {ConfigOf("Qwen3MoeForCausalLM", "qwen3_moe"), "Qwen3MoeForCausalLM"},
      {ConfigOf("LlamaForSequenceClassification", "llama"), "LlamaForSequenceClassification"},
      {ConfigOf("LlamaForCausalLM", "granite"), "granite"},
      {SmallConfig(R"("quantization_config": {"quant_method": "gptq", "bits": 4})"), "gptq"},
      {SmallConfig(R"("quantization_config": 4)"), "quantization_config"},
      {SmallConfig(R"("compression_config": {})"), "compression_config"},
      {SmallConfig(R"("hidden_act": "gelu")"), "gelu"},
      {SmallConfig(R"("rope_scaling": {"type": "dynamic", "factor": 2})"), "dynamic"},
      {SmallConfig(R"("rope_scaling": {"rope_type": "longrope"})"), "longrope"},
      {SmallConfig(R"("layer_types": ["full_attention", "linear_attention"])"), "linear_attention"},
      {SmallConfig(R"("dual_chunk_attention_config": {"chunk_size": 1})"), "dual_chunk_attention_config"},
      {Replace(SmallConfig(), "float32", "float8_e4m3fn"), "float8_e4m3fn"},
  };
  for (const auto& [json, name] : cases) {
    const auto config = ParseModelConfig(json, "");
    EXPECT_EQ(config.status().code(), absl::StatusCode::kUnimplemented) << name << ": " << config.status();
    EXPECT_THAT(std::string(config.status().message()), AllOf(HasSubstr(name), HasSubstr("config.json")));
  }
}

TEST(ModelConfig, BadFieldsAreNamedWithWhatWasFound) {
  const struct {
    std::string json, field, found;
  } cases[] = {
      {Replace(SmallConfig(), R"("hidden_size": 8)", R"("hidden_size": "8")"), "hidden_size", "\"8\""},
      {Replace(SmallConfig(), R"("hidden_size": 8, )", ""), "hidden_size", "missing"},
      {Replace(SmallConfig(), R"("num_hidden_layers": 2)", R"("num_hidden_layers": -2)"), "num_hidden_layers",
       "-2"},
      {Replace(SmallConfig(), R"("vocab_size": 10)", R"("vocab_size": 99999999999)"), "vocab_size",
       "99999999999"},
      {Replace(SmallConfig(), R"("vocab_size": 10)", R"("vocab_size": 10.5)"), "vocab_size", "10.5"},
      {Replace(SmallConfig(), R"("num_key_value_heads": 2)", R"("num_key_value_heads": 3)"),
       "num_key_value_heads", "3"},
      {Replace(SmallConfig(), R"("head_dim": 4)", R"("head_dim": 5)"), "head_dim", "5"},
      {SmallConfig(R"("tie_word_embeddings": "yes")"), "tie_word_embeddings", "yes"},
      {Replace(SmallConfig(), R"("eos_token_id": 2)", R"("eos_token_id": ["a"])"), "eos_token_id", "a"},
      {ConfigOf("MistralForCausalLM", "mistral", R"("sliding_window": 0)"), "sliding_window", "0"},
      {ConfigOf("Qwen2ForCausalLM", "qwen2", R"("layer_types": ["sliding_attention"])"), "layer_types", "1"},
      {ConfigOf("Qwen2ForCausalLM", "qwen2", R"("layer_types": ["sliding_attention", "full_attention"])"),
       "layer_types", "layer 0"},
      {"[1, 2]", "object", "[1,2]"},
      {"{\"a\": ", "JSON", ""},
      {"", "JSON", ""},
  };
  for (const auto& [json, field, found] : cases) {
    const auto config = ParseModelConfig(json, "");
    EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument) << json << ": " << config.status();
    EXPECT_THAT(std::string(config.status().message()),
                AllOf(HasSubstr(field), HasSubstr(found), HasSubstr("config.json")));
  }
}

TEST(ModelConfig, ADirectoryWithoutConfigIsNotFound) {
  TempDir dir;
  EXPECT_EQ(LoadModelConfig(dir.path()).status().code(), absl::StatusCode::kNotFound);
  dir.Write("config.json", SmallConfig());
  EXPECT_TRUE(LoadModelConfig(dir.path()).ok());
  dir.Write("generation_config.json", "{");
  const auto config = LoadModelConfig(dir.path());
  EXPECT_THAT(std::string(config.status().message()), HasSubstr("generation_config.json"));
}

TEST(ModelConfig, SurvivesItsFuzzCorpusAndMutations) {
  constexpr uint64_t kSeed = 7;
  SCOPED_TRACE(absl::StrCat("seed ", kSeed));
  const auto corpus = FuzzCorpus("model_config");
  ASSERT_GE(corpus.size(), 5u);
  RunFuzzCorpus(LLVMFuzzerTestOneInput, corpus, 1500, kSeed);
}

}  // namespace
}  // namespace lombard
