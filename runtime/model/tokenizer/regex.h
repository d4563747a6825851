// A PCRE2 pattern, compiled with JIT, applied to text in the internal form of unicode.h.
//
// Patterns in tokenizer.json are written for Oniguruma's Ruby syntax. They mean the same here where both
// agree; `^` and `$` match at line borders as they do there, and character classes that only Oniguruma has
// (nested, &&) are refused.
#pragma once

#include <cstddef>
#include <memory>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

struct pcre2_real_code_8;

namespace lombard::tokenization {

// Immutable; safe to use from several threads.
class Regex {
 public:
  // kInvalidArgument with the pattern, the place and the reason.
  static absl::StatusOr<Regex> Compile(absl::string_view pattern);

  // Calls found(begin, end) for the matches from left to right; they do not overlap. A pattern that exceeds
  // its limits (kMatchLimit in the .cc) finds nothing in the rest of the text.
  void ForEachMatch(absl::string_view text, absl::FunctionRef<void(size_t, size_t)> found) const;

 private:
  struct Free {
    void operator()(pcre2_real_code_8* code) const;
  };
  explicit Regex(pcre2_real_code_8* code) : code_(code) {}
  std::unique_ptr<pcre2_real_code_8, Free> code_;
};

}  // namespace lombard::tokenization
