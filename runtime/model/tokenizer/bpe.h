// The BPE model of tokenizer.json: vocabulary, merges, and what happens to characters outside the vocabulary.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/model/tokenizer/word_merge.h"

namespace lombard::tokenization {

class JsonField;

constexpr int32_t kTokenIdMax =
    (1 << 24) - 1;  // Vocabularies have at most some 300,000 tokens; bounds what a file can ask for.

// Words already encoded in one call; bounded, as its owner lives only as long as the call.
class WordCache {
 public:
  // nullptr when not there.
  const std::vector<int32_t>* Find(absl::string_view word) const;
  void Insert(absl::string_view word, const std::vector<int32_t>& ids);

 private:
  absl::flat_hash_map<std::string, std::vector<int32_t>> words_;
};

// Immutable after Parse; const methods are safe to use from several threads.
class BpeModel {
 public:
  // `json` is the file's "model". kUnimplemented names other models and options; kInvalidArgument names bad
  // fields.
  static absl::StatusOr<BpeModel> Parse(const JsonField& json);

  // Appends the ids of one piece (internal form of unicode.h) to `ids`.
  void Encode(absl::string_view piece, WordCache* cache, std::vector<int32_t>* ids) const;

  std::optional<int32_t> Find(absl::string_view token) const;
  // By id; ids that the vocabulary skips are empty.
  const std::vector<std::string>& tokens() const { return tokens_; }

 private:
  absl::Status ParseVocab(const JsonField& json);
  absl::Status ParseMerges(const JsonField& json);
  absl::Status AddMerge(absl::string_view left, absl::string_view right, uint32_t rank);
  void IndexCharacters();

  // Id of a single character in the vocabulary, or -1.
  int32_t SymbolOf(uint32_t code_point) const;
  void EncodeWord(absl::string_view word, std::vector<int32_t>* ids) const;
  void AppendSymbols(absl::string_view word, std::vector<int32_t>* ids) const;
  bool AppendBytes(absl::string_view character, uint32_t code_point, std::vector<int32_t>* ids) const;
  bool CanJoin(uint32_t left, uint32_t right) const {
    return joinable_.contains(static_cast<uint64_t>(left) << 32 | right);
  }

  std::vector<std::string> tokens_;
  absl::flat_hash_map<std::string, int32_t> ids_;
  MergeTable merges_;
  std::vector<int32_t> low_symbols_;                     // By code point, for those below its size.
  absl::flat_hash_map<uint32_t, int32_t> high_symbols_;  // The others.
  std::vector<int32_t> byte_ids_;                        // Of "<0x00>" to "<0xFF>", -1 where absent.
  absl::flat_hash_set<uint64_t> joinable_;               // Character pairs inside some merged token.
  bool may_cut_ = true;  // Whether joinable_ decides where a piece can be cut.
  std::optional<int32_t> unknown_id_;
  bool byte_fallback_ = false;
  bool fuse_unknown_ = false;
  bool ignore_merges_ = false;
};

}  // namespace lombard::tokenization
