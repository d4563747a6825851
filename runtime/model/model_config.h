// What config.json and generation_config.json of a Hugging Face directory say about a model. No weight is
// touched here.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/dtype.h"
#include "runtime/model/rope.h"

namespace lombard {

enum class Architecture { kLlama, kMistral, kQwen2, kQwen3 };

// A decoder of pre-norm blocks: RMSNorm, rotary grouped-query attention, RMSNorm, SwiGLU. A plain value.
struct ModelConfig {
  Architecture architecture = Architecture::kLlama;
  std::string architecture_name;  // as in the file: "LlamaForCausalLM"
  int hidden_size = 0, layers = 0;
  int q_heads = 0, kv_heads = 0;  // q_heads is a multiple of kv_heads
  int head_dim = 0;               // even; q_heads * head_dim need not be hidden_size
  int intermediate_size = 0, vocab_size = 0, max_position_embeddings = 0;
  float rms_norm_eps = 0;
  bool qkv_bias = false, o_bias = false, mlp_bias = false;
  bool qk_norm = false;            // RMSNorm over head_dim of every query and key head, before the rotation
  bool tied_embeddings = false;    // as in the file; Model settles which tensor both uses get
  std::vector<int> layer_windows;  // [layers]: a query at p sees the keys in (p - window, p]; 0 = all up to p
  RopeParameters rope;
  DType dtype = DType::kF32;  // of the weights, as announced; after Model::Load, of the layers' matrices
  // Ids that end a sequence: of generation_config.json, then of config.json, each once, those outside the
  // vocabulary dropped.
  std::vector<int32_t> eos_token_ids;
  std::optional<int32_t> bos_token_id;

  // 2 (K and V) * layers * kv_heads * head_dim * bytes of `kv`.
  int64_t KvBytesPerToken(DType kv) const;
};

// kNotFound: no config.json. kUnimplemented: something we do not run, by name (architecture, rope kind,
// quantisation, activation). kInvalidArgument: a field that is missing, of the wrong type or out of range,
// with what was found.
absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& model_dir);

// The same from the texts of the two files; `generation_json` may be empty.
absl::StatusOr<ModelConfig> ParseModelConfig(const std::string& config_json,
                                             const std::string& generation_json,
                                             const std::string& config_name = "config.json",
                                             const std::string& generation_name = "generation_config.json");

}  // namespace lombard
