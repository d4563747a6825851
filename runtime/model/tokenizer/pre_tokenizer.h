// Pre-tokenizers: cut normalized text into pieces; the model never joins characters across their borders.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace lombard::tokenization {

class JsonField;

// Pieces of `text` in order, not overlapping, none empty; what no piece covers is dropped. Internal form of
// unicode.h.
struct PieceList {
  struct Piece {
    size_t begin;
    size_t end;
    bool at_start;  // Holds the start of the whole input, which Metaspace's prepend scheme "first" asks for.
  };
  std::string text;
  std::vector<Piece> pieces;

  absl::string_view View(const Piece& piece) const {
    return absl::string_view(text).substr(piece.begin, piece.end - piece.begin);
  }
};

// Immutable; safe to use from several threads.
class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  virtual void Apply(PieceList* list) const = 0;
};

// Sequence, Split, ByteLevel, Metaspace, Digits, Whitespace, WhitespaceSplit, Punctuation,
// CharDelimiterSplit; others kUnimplemented.
absl::StatusOr<std::unique_ptr<PreTokenizer>> ParsePreTokenizer(const JsonField& json);

}  // namespace lombard::tokenization
