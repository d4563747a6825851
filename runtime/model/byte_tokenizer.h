// The smallest honest tokenizer: byte-level BPE without merges, so every text is its bytes and nothing is
// unknown.
#pragma once

#include <string>

#include "runtime/model/presets.h"

namespace lombard {

struct ByteTokenizerFiles {
  std::string tokenizer_json, tokenizer_config_json;
};

// The 256 byte tokens take the lowest ids that the special tokens of the preset leave free.
ByteTokenizerFiles ByteTokenizer(const ModelPreset& preset);

}  // namespace lombard
