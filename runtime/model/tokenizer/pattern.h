// The "pattern" of Replace and Split: a literal string or a regular expression.
#pragma once

#include <optional>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/model/tokenizer/json_field.h"
#include "runtime/model/tokenizer/regex.h"

namespace lombard::tokenization {

class Pattern {
 public:
  static absl::StatusOr<Pattern> Parse(const JsonField& json);
  static Pattern Literal(absl::string_view literal);

  // As Regex::ForEachMatch. An empty literal never matches.
  void ForEachMatch(absl::string_view text, absl::FunctionRef<void(size_t, size_t)> found) const;
  // `text` with each match replaced by `content`, which is taken literally.
  std::string Replace(absl::string_view text, absl::string_view content) const;
  // The literal, or nullptr for a regular expression.
  const std::string* literal() const { return regex_.has_value() ? nullptr : &literal_; }

 private:
  std::string literal_;
  std::optional<Regex> regex_;
};

}  // namespace lombard::tokenization
