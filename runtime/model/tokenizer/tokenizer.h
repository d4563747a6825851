// Text to token ids and back, as a Hugging Face tokenizer.json describes it.
//
//   ASSIGN_OR_RETURN(std::unique_ptr<Tokenizer> tokenizer, Tokenizer::Load(model_dir));
//   std::vector<int32_t> ids = tokenizer->Encode("Once upon a time", /*add_special_tokens=*/true);
//   StreamDecoder stream(*tokenizer, /*skip_special_tokens=*/true);   // text += stream.Push(id); ... text +=
//   stream.Finish();
//
// BPE models, byte-level or with byte fallback; what else a file may ask for is refused by name. Text is
// arbitrary bytes: what is not UTF-8 reaches the model byte by byte where the vocabulary has bytes, else it
// is unknown.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace lombard {

namespace tokenization {
struct TokenizerParts;
struct StreamState;
}  // namespace tokenization

// Immutable; const methods may be called from several threads.
class Tokenizer {
 public:
  // Reads model_dir/tokenizer.json and, when it is there, tokenizer_config.json: its added_tokens_decoder
  // adds to the file's added tokens and replaces those of the same content; add_bos_token and add_eos_token,
  // when given, decide. kNotFound: no tokenizer.json. kInvalidArgument: file and field that are wrong.
  // kUnimplemented: what is not supported.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const std::string& model_dir);
  // The contents of a tokenizer.json; `source` names it in errors.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Parse(absl::string_view tokenizer_json,
                                                          absl::string_view source);
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Parse(absl::string_view tokenizer_json,
                                                          absl::string_view source,
                                                          absl::string_view tokenizer_config_json,
                                                          absl::string_view config_source);
  ~Tokenizer();

  // Added tokens in the text become their ids in any case; add_special_tokens is about BOS and EOS around it.
  // Time is O(n log n) at worst, linear in practice.
  std::vector<int32_t> Encode(absl::string_view text, bool add_special_tokens) const;
  // Valid UTF-8; bytes that form no character become U+FFFD. Ids outside the vocabulary are skipped.
  std::string Decode(absl::Span<const int32_t> ids, bool skip_special_tokens) const;
  // The same without that repair: for a byte-level vocabulary exactly the bytes that were encoded.
  std::string DecodeBytes(absl::Span<const int32_t> ids, bool skip_special_tokens) const;

  int vocab_size() const;  // Largest id + 1.
  bool IsSpecial(int32_t id) const;
  std::optional<int32_t> TokenId(
      absl::string_view token) const;  // By its spelling in the vocabulary ("Ġthe").

 private:
  friend class StreamDecoder;
  explicit Tokenizer(std::unique_ptr<tokenization::TokenizerParts> parts);

  std::unique_ptr<const tokenization::TokenizerParts> parts_;
};

// Decodes one sequence as its tokens come. What Push and Finish return is valid UTF-8, never part of a
// character, and together equals Decode of all ids. Holds back only what a later token may still change. Not
// thread-safe; `tokenizer` must outlive it.
class StreamDecoder {
 public:
  StreamDecoder(const Tokenizer& tokenizer, bool skip_special_tokens);
  ~StreamDecoder();
  StreamDecoder(StreamDecoder&&) noexcept;
  StreamDecoder& operator=(StreamDecoder&&) noexcept;

  std::string Push(int32_t id);  // Text that became certain; may be empty.
  std::string Finish();          // What was held back. REQUIRES: no Push after it.

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_tokens_;
  std::unique_ptr<tokenization::StreamState> state_;
};

}  // namespace lombard
