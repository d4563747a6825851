// What a Tokenizer is made of, and how it is read. Internal to the tokenizer.
#pragma once

#include <memory>

#include "absl/status/status.h"
#include "runtime/model/tokenizer/added_tokens.h"
#include "runtime/model/tokenizer/bpe.h"
#include "runtime/model/tokenizer/decoder.h"
#include "runtime/model/tokenizer/json_field.h"
#include "runtime/model/tokenizer/normalizer.h"
#include "runtime/model/tokenizer/post_processor.h"
#include "runtime/model/tokenizer/pre_tokenizer.h"

namespace lombard::tokenization {

struct TokenizerParts {
  std::unique_ptr<Normalizer> normalizer;       // May be null.
  std::unique_ptr<PreTokenizer> pre_tokenizer;  // May be null.
  BpeModel model;
  PostProcessor post_processor;
  DecoderChain decoder;
  AddedTokens added_tokens;
  int32_t vocab_size = 0;
};

// `config` is the root of tokenizer_config.json, an empty object when there is none.
absl::StatusOr<std::unique_ptr<TokenizerParts>> ParseTokenizer(const JsonField& json,
                                                               const JsonField& config);

}  // namespace lombard::tokenization
