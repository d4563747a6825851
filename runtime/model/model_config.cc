#include "runtime/model/model_config.h"

#include <algorithm>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "base/status.h"

namespace lombard {
namespace {

// Bounds that no real model comes near; they keep every product of sizes within 64 bits.
constexpr int64_t kSizeMax = 1 << 20, kLayersMax = 4096, kHeadsMax = 4096, kHeadDimMax = 1024;
constexpr int64_t kPositionsMax = 1 << 30, kVocabMax = 1 << 24;

// `missing_kv_heads` and its neighbours are what the architecture means when config.json leaves a field out.
struct Known {
  const char* name;
  const char* model_type;
  Architecture architecture;
  int missing_kv_heads;  // 0: as many as query heads
  int missing_head_dim;  // 0: hidden_size / query heads
};
constexpr Known kKnown[] = {
    {"LlamaForCausalLM", "llama", Architecture::kLlama, 0, 0},
    {"LLaMAForCausalLM", "llama", Architecture::kLlama, 0, 0},  // the first conversions spelt it so
    {"MistralForCausalLM", "mistral", Architecture::kMistral, 8, 0},
    {"Qwen2ForCausalLM", "qwen2", Architecture::kQwen2, 32, 0},
    {"Qwen3ForCausalLM", "qwen3", Architecture::kQwen3, 32, 128},
};

absl::StatusOr<Known> FindArchitecture(const JsonFields& fields, std::string* name) {
  ASSIGN_OR_RETURN(const auto names, fields.Strings("architectures"));
  ASSIGN_OR_RETURN(const std::string type, fields.String("model_type", ""));
  if (names.empty() && type.empty()) return fields.Missing("architectures");
  *name = names.empty() ? type : names[0];
  for (const Known& known : kKnown) {
    const bool type_fits = type.empty() || absl::EqualsIgnoreCase(type, known.model_type);
    if (type_fits && (names.empty() || names[0] == known.name)) {
      *name = names.empty() ? known.name : names[0];
      return known;
    }
  }
  return absl::UnimplementedError(absl::StrCat(
      fields.where(), ": architecture ", *name, type.empty() ? "" : absl::StrCat(" (model_type ", type, ")"),
      " is not supported (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM and Qwen3ForCausalLM are)"));
}

absl::Status RefuseWhatWeDoNotRun(const JsonFields& fields) {
  for (const char* key : {"quantization_config", "compression_config"}) {
    if (!fields.Has(key)) continue;
    std::string method = "unnamed method";
    if (const auto object = fields.Object(key); object.ok() && object->has_value()) {
      method = (*object)->String("quant_method", method).value_or(method);
    }
    return absl::UnimplementedError(
        absl::StrCat(fields.where(), ": ", key, ": quantised weights (", method,
                     ") are not supported; use the float32, float16 or bfloat16 checkpoint"));
  }
  ASSIGN_OR_RETURN(const std::string activation, fields.String("hidden_act", "silu"));
  if (activation != "silu" && activation != "swish") {
    return absl::UnimplementedError(
        absl::StrCat(fields.where(), ": hidden_act \"", activation, "\" is not supported (silu is)"));
  }
  if (fields.Has("dual_chunk_attention_config")) {
    return absl::UnimplementedError(
        absl::StrCat(fields.where(), ": dual_chunk_attention_config is not supported"));
  }
  return absl::OkStatus();
}

absl::Status ReadSizes(const JsonFields& fields, const Known& known, ModelConfig* config) {
  ASSIGN_OR_RETURN(config->hidden_size, fields.Int("hidden_size", 1, kSizeMax));
  ASSIGN_OR_RETURN(config->layers, fields.Int("num_hidden_layers", 1, kLayersMax));
  ASSIGN_OR_RETURN(config->intermediate_size, fields.Int("intermediate_size", 1, kSizeMax));
  ASSIGN_OR_RETURN(config->vocab_size, fields.Int("vocab_size", 1, kVocabMax));
  ASSIGN_OR_RETURN(config->max_position_embeddings, fields.Int("max_position_embeddings", 1, kPositionsMax));
  ASSIGN_OR_RETURN(config->q_heads, fields.Int("num_attention_heads", 1, kHeadsMax));
  const int kv_heads =
      known.missing_kv_heads > 0 ? std::min(known.missing_kv_heads, config->q_heads) : config->q_heads;
  ASSIGN_OR_RETURN(config->kv_heads, fields.Int("num_key_value_heads", 1, kHeadsMax, kv_heads));
  if (config->q_heads % config->kv_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat(fields.where(), ": num_attention_heads ", config->q_heads,
                                                   " is not a multiple of num_key_value_heads ",
                                                   config->kv_heads));
  }
  int head_dim = known.missing_head_dim;
  if (!fields.Has("head_dim") && head_dim == 0) {
    if (config->hidden_size % config->q_heads != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(fields.where(), ": head_dim is missing and hidden_size ", config->hidden_size,
                       " is not a multiple of num_attention_heads ", config->q_heads));
    }
    head_dim = config->hidden_size / config->q_heads;
  }
  ASSIGN_OR_RETURN(config->head_dim, fields.Int("head_dim", 1, kHeadDimMax, head_dim));
  if (config->head_dim % 2 != 0 || config->head_dim > kHeadDimMax) {
    return absl::InvalidArgumentError(absl::StrCat(fields.where(),
                                                   ": head_dim: expected an even number up to ", kHeadDimMax,
                                                   ", found ", config->head_dim));
  }
  ASSIGN_OR_RETURN(const double eps, fields.Number("rms_norm_eps", 1e-6));
  if (!(eps >= 0 && eps < 1))
    return fields.Wrong("rms_norm_eps", "a number from 0 to 1", *fields.Find("rms_norm_eps"));
  config->rms_norm_eps = static_cast<float>(eps);
  return absl::OkStatus();
}

absl::Status ReadSwitches(const JsonFields& fields, ModelConfig* config) {
  ASSIGN_OR_RETURN(config->tied_embeddings, fields.Bool("tie_word_embeddings", false));
  ASSIGN_OR_RETURN(const bool attention_bias, fields.Bool("attention_bias", false));
  ASSIGN_OR_RETURN(const bool mlp_bias, fields.Bool("mlp_bias", false));
  const Architecture architecture = config->architecture;
  const bool may_have_bias = architecture == Architecture::kLlama || architecture == Architecture::kQwen3;
  config->o_bias = may_have_bias && attention_bias;
  config->qkv_bias = config->o_bias ||
                     architecture == Architecture::kQwen2;  // Qwen2 always has them, the file does not say so
  config->mlp_bias = architecture == Architecture::kLlama && mlp_bias;
  config->qk_norm = architecture == Architecture::kQwen3;
  return absl::OkStatus();
}

// Mistral: one window for all layers, 4096 when the file has no such field, none when it is null. Qwen: a
// window only with use_sliding_window, for the layers that layer_types names, or else those from
// max_window_layers on. Llama: never.
absl::Status ReadWindows(const JsonFields& fields, ModelConfig* config) {
  config->layer_windows.assign(config->layers, 0);
  ASSIGN_OR_RETURN(const auto types, fields.Strings("layer_types"));
  if (!types.empty() && types.size() != config->layers) {
    return absl::InvalidArgumentError(absl::StrCat(fields.where(), ": layer_types: expected ", config->layers,
                                                   " entries, found ", types.size()));
  }
  int64_t window = 0;
  const bool qwen =
      config->architecture == Architecture::kQwen2 || config->architecture == Architecture::kQwen3;
  ASSIGN_OR_RETURN(const bool use_window, fields.Bool("use_sliding_window", false));
  if (config->architecture == Architecture::kMistral || (qwen && use_window)) {
    ASSIGN_OR_RETURN(
        window, fields.Int("sliding_window", 1, kPositionsMax, fields.IsNull("sliding_window") ? 0 : 4096));
  }
  ASSIGN_OR_RETURN(const int64_t first, fields.Int("max_window_layers", 0, kPositionsMax, 28));
  for (int layer = 0; layer < config->layers; ++layer) {
    bool sliding = config->architecture == Architecture::kMistral || (qwen && layer >= first && window > 0);
    if (!types.empty()) {
      const std::string& type = types[layer];
      if (type != "full_attention" && type != "sliding_attention") {
        return absl::UnimplementedError(
            absl::StrCat(fields.where(), ": layer_types: \"", type,
                         "\" is not supported (full_attention and sliding_attention are)"));
      }
      sliding = type == "sliding_attention";
      if (sliding && window == 0) {
        return absl::InvalidArgumentError(
            absl::StrCat(fields.where(), ": layer_types: layer ", layer,
                         " is sliding_attention but no sliding_window is in use"));
      }
    }
    if (sliding) config->layer_windows[layer] = static_cast<int>(window);
  }
  return absl::OkStatus();
}

absl::Status ReadDType(const JsonFields& fields, ModelConfig* config) {
  const char* key = fields.Has("dtype") ? "dtype" : "torch_dtype";
  ASSIGN_OR_RETURN(const std::string text, fields.String(key, "float32"));
  const absl::string_view name = absl::StripPrefix(text, "torch.");
  for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    if (name == DTypeName(dtype)) {
      config->dtype = dtype;
      return absl::OkStatus();
    }
  }
  return absl::UnimplementedError(absl::StrCat(fields.where(), ": ", key, " \"", text,
                                               "\" is not supported (float32, float16 and bfloat16 are)"));
}

absl::Status ReadTokenIds(const JsonFields& fields, ModelConfig* config) {
  ASSIGN_OR_RETURN(const auto stops, fields.Ints("eos_token_id"));
  for (const int64_t id : stops) {
    if (id < 0 || id >= config->vocab_size) continue;
    if (std::find(config->eos_token_ids.begin(), config->eos_token_ids.end(), id) ==
        config->eos_token_ids.end()) {
      config->eos_token_ids.push_back(static_cast<int32_t>(id));
    }
  }
  ASSIGN_OR_RETURN(const auto starts, fields.Ints("bos_token_id"));
  if (!config->bos_token_id && !starts.empty() && starts[0] >= 0 && starts[0] < config->vocab_size) {
    config->bos_token_id = static_cast<int32_t>(starts[0]);
  }
  return absl::OkStatus();
}

}  // namespace

int64_t ModelConfig::KvBytesPerToken(DType kv) const {
  return int64_t{2} * layers * kv_heads * head_dim * static_cast<int64_t>(DTypeBytes(kv));
}

absl::StatusOr<ModelConfig> ParseModelConfig(const std::string& config_json,
                                             const std::string& generation_json,
                                             const std::string& config_name,
                                             const std::string& generation_name) {
  ASSIGN_OR_RETURN(const auto file, JsonFile::Parse(config_json, config_name));
  const JsonFields& fields = file->fields();
  ModelConfig config;
  ASSIGN_OR_RETURN(const Known known, FindArchitecture(fields, &config.architecture_name));
  config.architecture = known.architecture;
  RETURN_IF_ERROR(RefuseWhatWeDoNotRun(fields));
  RETURN_IF_ERROR(ReadSizes(fields, known, &config));
  RETURN_IF_ERROR(ReadSwitches(fields, &config));
  RETURN_IF_ERROR(ReadWindows(fields, &config));
  ASSIGN_OR_RETURN(config.rope, ReadRope(fields, config.head_dim, config.max_position_embeddings));
  RETURN_IF_ERROR(ReadDType(fields, &config));
  if (!generation_json.empty()) {
    ASSIGN_OR_RETURN(const auto generation, JsonFile::Parse(generation_json, generation_name));
    RETURN_IF_ERROR(ReadTokenIds(generation->fields(), &config));
  }
  RETURN_IF_ERROR(ReadTokenIds(fields, &config));
  return config;
}

absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& model_dir) {
  const std::string config_path = model_dir + "/config.json",
                    generation_path = model_dir + "/generation_config.json";
  ASSIGN_OR_RETURN(const std::string config_json, ReadWholeFile(config_path));
  std::string generation_json;
  std::error_code ignored;
  if (std::filesystem::exists(generation_path, ignored)) {
    ASSIGN_OR_RETURN(generation_json, ReadWholeFile(generation_path));
  }
  return ParseModelConfig(config_json, generation_json, config_path, generation_path);
}

}  // namespace lombard
