// Added tokens: strings that are cut out of the text, before any model sees it, and become one id each.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/strings/string_view.h"
#include "runtime/model/tokenizer/normalizer.h"

namespace lombard::tokenization {

struct AddedToken {
  std::string content;
  std::string spelling;  // What decoding starts from: the normalized content of a normalized token.
  int32_t id = 0;
  bool single_word = false;  // Only between non-word characters.
  bool lstrip = false;       // Takes the whitespace before it along.
  bool rstrip = false;       // Takes the whitespace behind it along.
  bool normalized = false;   // Looked for in the normalized text, as its own normalized form.
  bool special = false;      // Left out by decoding with skip_special_tokens.
};

// A set of byte strings; finds the longest one at a place. Cost of a look-up: the length walked.
class StringSet {
 public:
  // The value of a string added twice is the later one. Empty strings are ignored.
  void Add(absl::string_view text, int32_t value);
  bool empty() const { return next_.empty(); }
  struct Match {
    size_t bytes;
    int32_t value;
  };
  std::optional<Match> LongestAt(absl::string_view text, size_t at) const;

 private:
  int32_t nodes_ = 1;
  absl::flat_hash_map<uint64_t, int32_t> next_;   // (node, byte) to node.
  absl::flat_hash_map<int32_t, int32_t> values_;  // Of nodes that end a string.
  bool starts_[256] = {};                         // Bytes with which some string starts.
};

// Immutable after construction; safe to use from several threads.
class AddedTokens {
 public:
  AddedTokens() = default;
  // `normalizer` may be null. Of two tokens with the same content the later one counts.
  AddedTokens(std::vector<AddedToken> tokens, const Normalizer* normalizer);

  // Calls found(begin, end, token) for each part of `text` in order: an added token, or text between (token =
  // nullptr). Normalized tokens are found in normalized text, the others in the text as it came.
  using Part = absl::FunctionRef<void(size_t begin, size_t end, const AddedToken* token)>;
  void Split(absl::string_view text, bool normalized, Part found) const;

  const AddedToken* ById(int32_t id) const;
  const AddedToken* ByContent(absl::string_view content) const;
  const std::vector<AddedToken>& tokens() const { return tokens_; }

 private:
  std::vector<AddedToken> tokens_;
  absl::flat_hash_map<int32_t, int32_t> by_id_;           // To the index in tokens_.
  absl::flat_hash_map<std::string, int32_t> by_content_;  // The same.
  StringSet raw_;
  StringSet normalized_;
};

}  // namespace lombard::tokenization
