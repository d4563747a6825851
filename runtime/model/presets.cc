#include "runtime/model/presets.h"

#include "absl/strings/str_cat.h"

namespace lombard {
namespace {

constexpr const char* kLlama[] = {"LlamaForCausalLM", "llama"};
constexpr const char* kMistral[] = {"MistralForCausalLM", "mistral"};
constexpr const char* kQwen2[] = {"Qwen2ForCausalLM", "qwen2"};
constexpr const char* kQwen3[] = {"Qwen3ForCausalLM", "qwen3"};
constexpr DType kBF16 = DType::kBF16;

constexpr const char* kLlama32Rope =
    R"("rope_scaling": {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, )"
    R"("original_max_position_embeddings": 8192})";
constexpr const char* kQwenWindow = R"("use_sliding_window": false, "max_window_layers": 24)";

// clang-format off
constexpr ModelPreset kPresets[] = {
    // name            architecture, model_type           hidden layers   q  kv  dim  inner   vocab  positions   eps     theta   tied  dtype        bos     eos
    {"tiny",           kLlama[0],   kLlama[1],             64,    2,      8,  2,  16,   128,    320,   4096,   1e-5,   10000,  true,  DType::kF32,   318,    319, ""},
    {"smollm2-135m",   kLlama[0],   kLlama[1],            576,   30,      9,  3,  64,  1536,  49152,   8192,   1e-5,  100000,  true,  kBF16,           0,      0, ""},
    {"qwen2.5-0.5b",   kQwen2[0],   kQwen2[1],            896,   24,     14,  2,  64,  4864, 151936,  32768,   1e-6, 1000000,  true,  kBF16,          -1, 151643, kQwenWindow},
    {"qwen3-0.6b",     kQwen3[0],   kQwen3[1],           1024,   28,     16,  8, 128,  3072, 151936,  40960,   1e-6, 1000000,  true,  kBF16,          -1, 151645, ""},
    {"llama-3.2-1b",   kLlama[0],   kLlama[1],           2048,   16,     32,  8,  64,  8192, 128256, 131072,   1e-5,  500000,  true,  kBF16,      128000, 128001, kLlama32Rope},
    {"mistral-7b",     kMistral[0], kMistral[1],         4096,   32,     32,  8, 128, 14336,  32000,  32768,   1e-5,   10000, false,  kBF16,           1,      2, R"("sliding_window": 4096)"},
    {"llama-3-8b",     kLlama[0],   kLlama[1],           4096,   32,     32,  8, 128, 14336, 128256,   8192,   1e-5,  500000, false,  kBF16,      128000, 128001, ""},
    {"llama-2-7b",     kLlama[0],   kLlama[1],           4096,   32,     32, 32, 128, 11008,  32000,   4096,   1e-5,   10000, false,  kBF16,           1,      2, ""},
    {"llama-2-13b",    kLlama[0],   kLlama[1],           5120,   40,     40, 40, 128, 13824,  32000,   4096,   1e-5,   10000, false,  kBF16,           1,      2, ""},
    {"llama-2-70b",    kLlama[0],   kLlama[1],           8192,   80,     64,  8, 128, 28672,  32000,   4096,   1e-5,   10000, false,  kBF16,           1,      2, ""},
};
// clang-format on

}  // namespace

absl::Span<const ModelPreset> Presets() { return kPresets; }

std::string PresetConfigJson(const ModelPreset& p) {
  return absl::StrCat(
      "{\n  \"architectures\": [\"", p.architecture, "\"],\n  \"model_type\": \"", p.model_type,
      "\",\n  \"hidden_size\": ", p.hidden_size, ",\n  \"num_hidden_layers\": ", p.layers,
      ",\n  \"num_attention_heads\": ", p.q_heads, ",\n  \"num_key_value_heads\": ", p.kv_heads,
      ",\n  \"head_dim\": ", p.head_dim, ",\n  \"intermediate_size\": ", p.intermediate_size,
      ",\n  \"vocab_size\": ", p.vocab_size, ",\n  \"max_position_embeddings\": ", p.max_position_embeddings,
      ",\n  \"rms_norm_eps\": ", p.rms_norm_eps, ",\n  \"rope_theta\": ", p.rope_theta,
      ",\n  \"hidden_act\": \"silu\",\n  \"tie_word_embeddings\": ", p.tied_embeddings ? "true" : "false",
      ",\n  \"torch_dtype\": \"", DTypeName(p.dtype), "\"",
      p.bos_id < 0 ? "" : absl::StrCat(",\n  \"bos_token_id\": ", p.bos_id),
      ",\n  \"eos_token_id\": ", p.eos_id, *p.more_config ? ",\n  " : "", p.more_config, "\n}\n");
}

}  // namespace lombard
