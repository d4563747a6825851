// Normalizers: what tokenizer.json does to text before it is cut into pieces.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace lombard::tokenization {

class JsonField;

// Immutable; safe to use from several threads.
class Normalizer {
 public:
  virtual ~Normalizer() = default;
  // Text in the internal form of unicode.h, in and out.
  virtual std::string Apply(std::string text) const = 0;
};

// Sequence, Prepend, Replace, NFC, NFD, NFKC, NFKD, Lowercase, Strip, StripAccents, ByteLevel; others
// kUnimplemented.
absl::StatusOr<std::unique_ptr<Normalizer>> ParseNormalizer(const JsonField& json);

}  // namespace lombard::tokenization
