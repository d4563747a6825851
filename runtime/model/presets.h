// Public model shapes under the names by which `lombard model create --preset` knows them.
#pragma once

#include <string>

#include "absl/types/span.h"
#include "base/dtype.h"

namespace lombard {

// Sources: the config.json files that the models' owners publish. bos_id < 0: the tokenizer puts nothing
// before a text.
struct ModelPreset {
  const char* name;
  const char* architecture;
  const char* model_type;
  int hidden_size, layers, q_heads, kv_heads, head_dim, intermediate_size, vocab_size,
      max_position_embeddings;
  double rms_norm_eps, rope_theta;
  bool tied_embeddings;
  DType dtype;
  int bos_id, eos_id;
  const char* more_config;  // further JSON fields, or ""
};

absl::Span<const ModelPreset> Presets();
// config.json of a preset, parseable by ParseModelConfig.
std::string PresetConfigJson(const ModelPreset& preset);

}  // namespace lombard
