// Decoders: from tokens back to text, one token at a time. Each step of the chain maps the next chunk of its
// input to the next chunk of its output and keeps what it cannot decide yet, so that decoding at once and
// token by token are the same code and give the same text.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/model/tokenizer/pattern.h"

namespace lombard::tokenization {

class JsonField;

struct DecoderStep {
  enum class Kind : uint8_t { kReplace, kByteFallback, kStrip, kMetaspace, kByteLevel };
  Kind kind;
  bool fused = false;   // Behind Fuse: the chunks are parts of one string, not one token each.
  Pattern pattern;      // kReplace
  std::string content;  // kReplace: what comes instead; kStrip, kMetaspace: the character.
  int64_t start =
      0;  // kStrip: how many characters at the start and end of a token (all of the text if fused).
  int64_t stop = 0;
  bool drop_first =
      false;  // kMetaspace: the first token loses its replacement characters, instead of spaces.
};

// Immutable; safe to use from several threads.
class DecoderChain {
 public:
  // Without decoder the tokens are joined by spaces.
  DecoderChain() = default;
  // Sequence, Replace, ByteFallback, Fuse, Strip, Metaspace, ByteLevel; others kUnimplemented. So is a step
  // behind ByteFallback that would meet bytes where the reference has characters: any before Fuse, since here
  // each byte is a chunk of its own, and one that looks for U+FFFD, which is put in behind the chain.
  static absl::StatusOr<DecoderChain> Parse(const JsonField& json);

  // What one sequence of tokens has left in the chain.
  struct State {
    struct Step {
      bool first = true;
      int64_t stripped = 0;
      std::string held;
    };
    std::vector<Step> steps;
    bool first = true;
  };
  // Both return bytes that need not be whole characters.
  std::string Push(absl::string_view token, State* state) const;
  std::string Finish(State* state) const;

  // Whether tokens name single bytes ("<0xE4>"): then each byte that belongs to no character becomes a U+FFFD
  // of its own where a byte-level decoder writes one for a broken-off character.
  bool has_byte_fallback() const { return has_byte_fallback_; }

 private:
  absl::Status Append(const JsonField& json);
  std::string Run(size_t from, std::string chunk, State* state) const;

  std::vector<DecoderStep> steps_;
  bool join_with_spaces_ = true;
  bool fused_ = false;
  bool has_byte_fallback_ = false;
};

// Passes whole characters on and replaces what is none by U+FFFD.
class Utf8Repair {
 public:
  explicit Utf8Repair(bool each_byte) : each_byte_(each_byte) {}
  std::string Push(absl::string_view bytes);
  std::string Finish();

 private:
  bool each_byte_;
  std::string held_;  // The beginning of a character.
};

}  // namespace lombard::tokenization
