#include "runtime/model/tokenizer/bpe.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status.h"
#include "runtime/model/tokenizer/json_field.h"
#include "runtime/model/tokenizer/unicode.h"

namespace lombard::tokenization {
namespace {

constexpr uint32_t kLowCodePoints = 0x10000;
// Only longer pieces are looked at for places to cut: below, the merge loop costs less than the search.
constexpr size_t kCutBytesMin = 64;
constexpr size_t kCachedWordBytesMax = 64;
constexpr size_t kCachedWordsMax = 1 << 16;

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

absl::Status RefuseOption(const JsonField& json, absl::string_view key) {
  ASSIGN_OR_RETURN(const std::optional<JsonField> field, json.Find(key));
  if (!field.has_value()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const absl::string_view text, field->AsString());
  if (text.empty()) return absl::OkStatus();
  return absl::UnimplementedError(field->Error(absl::StrCat("\"", text, "\" is not supported")).message());
}

}  // namespace

const std::vector<int32_t>* WordCache::Find(absl::string_view word) const {
  const auto found = words_.find(word);
  return found == words_.end() ? nullptr : &found->second;
}

void WordCache::Insert(absl::string_view word, const std::vector<int32_t>& ids) {
  if (words_.size() < kCachedWordsMax) words_.emplace(word, ids);
}

absl::StatusOr<BpeModel> BpeModel::Parse(const JsonField& json) {
  BpeModel model;
  ASSIGN_OR_RETURN(const std::optional<JsonField> type_json, json.Find("type"));
  if (type_json.has_value()) {  // Files older than the field are BPE when they have merges.
    ASSIGN_OR_RETURN(const absl::string_view type, type_json->AsString());
    if (type != "BPE") {
      return absl::UnimplementedError(
          type_json->Error(absl::StrCat("model ", type, " is not supported, only BPE")).message());
    }
  }
  RETURN_IF_ERROR(RefuseOption(json, "continuing_subword_prefix"));
  RETURN_IF_ERROR(RefuseOption(json, "end_of_word_suffix"));
  ASSIGN_OR_RETURN(const std::optional<JsonField> dropout, json.Find("dropout"));
  if (dropout.has_value()) {
    double probability = 0;
    if (dropout->value().get(probability) != simdjson::SUCCESS) return dropout->Expected("a number");
    if (probability != 0)
      return absl::UnimplementedError(dropout->Error("a random tokenizer is not supported").message());
  }
  ASSIGN_OR_RETURN(model.byte_fallback_, json.GetBool("byte_fallback", false));
  ASSIGN_OR_RETURN(model.fuse_unknown_, json.GetBool("fuse_unk", false));
  ASSIGN_OR_RETURN(model.ignore_merges_, json.GetBool("ignore_merges", false));
  ASSIGN_OR_RETURN(const JsonField vocab, json.Get("vocab"));
  RETURN_IF_ERROR(model.ParseVocab(vocab));
  ASSIGN_OR_RETURN(const std::optional<JsonField> unknown, json.Find("unk_token"));
  if (unknown.has_value()) {
    ASSIGN_OR_RETURN(const absl::string_view token, unknown->AsString());
    model.unknown_id_ = model.Find(token);
    if (!model.unknown_id_.has_value())
      return unknown->Error(absl::StrCat("\"", token, "\" is not in the vocabulary"));
  }
  ASSIGN_OR_RETURN(const JsonField merges, json.Get("merges"));
  RETURN_IF_ERROR(model.ParseMerges(merges));
  model.IndexCharacters();
  return model;
}

absl::Status BpeModel::ParseVocab(const JsonField& json) {
  ASSIGN_OR_RETURN(const simdjson::dom::object object, json.AsObject());
  ids_.reserve(object.size());
  int64_t id_max = -1;
  for (const auto& [token, value] : object) {
    int64_t id = 0;
    if (value.get(id) != simdjson::SUCCESS || id < 0 || id > kTokenIdMax) {
      return json.Error(absl::StrCat("token \"", View(token), "\": expected an id from 0 to ", kTokenIdMax));
    }
    ids_[View(token)] = static_cast<int32_t>(id);
    id_max = std::max(id_max, id);
  }
  tokens_.resize(static_cast<size_t>(id_max + 1));
  for (const auto& [token, id] : ids_) {
    if (!tokens_[id].empty())
      may_cut_ = false;  // Two tokens, one id: what merges join is no longer a matter of text.
    tokens_[id] = token;
  }
  return absl::OkStatus();
}

absl::Status BpeModel::AddMerge(absl::string_view left, absl::string_view right, uint32_t rank) {
  const std::optional<int32_t> left_id = Find(left), right_id = Find(right);
  const std::string joined = absl::StrCat(left, right);
  const std::optional<int32_t> id = Find(joined);
  if (!left_id.has_value() || !right_id.has_value() || !id.has_value()) {
    const absl::string_view missing = !left_id.has_value() ? left : !right_id.has_value() ? right : joined;
    return absl::InvalidArgumentError(absl::StrCat("token \"", missing, "\" is not in the vocabulary"));
  }
  merges_.Set(*left_id, *right_id, {rank, *id});
  // Byte tokens and the unknown token stand for other text than they spell; joinable_ says nothing about
  // merges of them.
  if (byte_fallback_ && absl::StrContains(joined, "<0x")) may_cut_ = false;
  if (unknown_id_.has_value() && absl::StrContains(joined, tokens_[*unknown_id_])) may_cut_ = false;
  uint32_t previous = 0;
  for (size_t at = 0; at < joined.size();) {
    const CodePoint c = ReadCodePoint(joined, at);
    if (at > 0) joinable_.insert(static_cast<uint64_t>(previous) << 32 | c.value);
    previous = c.value;
    at += c.bytes;
  }
  return absl::OkStatus();
}

absl::Status BpeModel::ParseMerges(const JsonField& json) {
  simdjson::dom::array array;
  if (json.value().get(array) != simdjson::SUCCESS) return json.Expected("an array");
  merges_.Reserve(array.size());
  uint32_t rank = 0;
  for (const simdjson::dom::element item : array) {
    std::string_view text;
    simdjson::dom::array pair;
    std::string_view left, right;
    bool well_formed = false;
    if (item.get(text) == simdjson::SUCCESS) {
      const size_t space = text.find(' ');
      well_formed = space != text.npos && text.find(' ', space + 1) == text.npos;
      if (well_formed) {
        left = text.substr(0, space);
        right = text.substr(space + 1);
      }
    } else if (item.get(pair) == simdjson::SUCCESS && pair.size() == 2) {
      well_formed = pair.at(0).get(left) == simdjson::SUCCESS && pair.at(1).get(right) == simdjson::SUCCESS;
    }
    absl::Status added = well_formed
                             ? AddMerge(View(left), View(right), rank)
                             : absl::InvalidArgumentError("expected \"left right\" or [\"left\", \"right\"]");
    if (!added.ok()) return json.Error(absl::StrCat("merge ", rank, ": ", added.message()));
    ++rank;
  }
  return absl::OkStatus();
}

void BpeModel::IndexCharacters() {
  low_symbols_.assign(kLowCodePoints, -1);
  for (const auto& [token, id] : ids_) {
    if (token.empty()) continue;
    const CodePoint c = ReadCodePoint(token, 0);
    if (c.bytes != token.size()) continue;
    if (c.value < kLowCodePoints) {
      low_symbols_[c.value] = id;
    } else {
      high_symbols_[c.value] = id;
    }
  }
  byte_ids_.assign(256, -1);
  for (int byte = 0; byte < 256; ++byte) {
    byte_ids_[byte] = Find(absl::StrFormat("<0x%02X>", byte)).value_or(-1);
  }
}

std::optional<int32_t> BpeModel::Find(absl::string_view token) const {
  const auto found = ids_.find(token);
  if (found == ids_.end()) return std::nullopt;
  return found->second;
}

int32_t BpeModel::SymbolOf(uint32_t code_point) const {
  if (code_point < kLowCodePoints) return low_symbols_[code_point];
  const auto found = high_symbols_.find(code_point);
  return found == high_symbols_.end() ? -1 : found->second;
}

bool BpeModel::AppendBytes(absl::string_view character, uint32_t code_point,
                           std::vector<int32_t>* ids) const {
  const size_t before = ids->size();
  const auto append = [&](uint8_t byte) {
    ids->push_back(byte_ids_[byte]);
    return byte_ids_[byte] >= 0;
  };
  bool all = true;
  if (IsEscapedByte(code_point)) {
    all = append(EscapedByte(code_point));
  } else {
    for (const char byte : character) all = append(static_cast<uint8_t>(byte)) && all;
  }
  if (!all) ids->resize(before);
  return all;
}

// A pending unknown token is written when the next known character comes or, without fusing, the next unknown
// one. Byte tokens do not flush it; that is how the reference behaves when a vocabulary holds some byte
// tokens only.
void BpeModel::AppendSymbols(absl::string_view word, std::vector<int32_t>* ids) const {
  bool pending = false;
  for (size_t at = 0; at < word.size();) {
    const CodePoint c = ReadCodePoint(word, at);
    const absl::string_view character = word.substr(at, c.bytes);
    at += c.bytes;
    if (const int32_t id = SymbolOf(c.value); id >= 0) {
      if (pending) ids->push_back(*unknown_id_);
      pending = false;
      ids->push_back(id);
    } else if (byte_fallback_ && AppendBytes(character, c.value, ids)) {
      continue;
    } else if (unknown_id_.has_value()) {
      if (pending && !fuse_unknown_) ids->push_back(*unknown_id_);
      pending = true;
    }
  }
  if (pending) ids->push_back(*unknown_id_);
}

void BpeModel::EncodeWord(absl::string_view word, std::vector<int32_t>* ids) const {
  AppendSymbols(word, ids);
  MergeWord(merges_, ids);
}

void BpeModel::Encode(absl::string_view piece, WordCache* cache, std::vector<int32_t>* ids) const {
  if (ignore_merges_) {
    if (const std::optional<int32_t> id = Find(piece); id.has_value()) {
      ids->push_back(*id);
      return;
    }
  }
  std::vector<int32_t> word_ids;
  const auto encode = [&](absl::string_view word) {
    const bool cacheable = word.size() <= kCachedWordBytesMax;
    if (cacheable) {
      if (const std::vector<int32_t>* known = cache->Find(word); known != nullptr) {
        ids->insert(ids->end(), known->begin(), known->end());
        return;
      }
    }
    word_ids.clear();
    EncodeWord(word, &word_ids);
    if (cacheable) cache->Insert(word, word_ids);
    ids->insert(ids->end(), word_ids.begin(), word_ids.end());
  };
  if (!may_cut_ || piece.size() < kCutBytesMin) return encode(piece);

  // Two neighbouring characters that no merged token holds side by side are never joined, so a long piece
  // (all of the text, without pre-tokenizer) falls apart into words that repeat. Cutting before known
  // characters only keeps runs of unknown ones together, which fusing needs.
  size_t begin = 0;
  uint32_t previous = 0;
  for (size_t at = 0; at < piece.size();) {
    const CodePoint c = ReadCodePoint(piece, at);
    if (at > begin && !CanJoin(previous, c.value) && SymbolOf(c.value) >= 0) {
      encode(piece.substr(begin, at - begin));
      begin = at;
    }
    // A character that leaves no symbol does not keep its neighbours apart.
    if (unknown_id_.has_value() || SymbolOf(c.value) >= 0) previous = c.value;
    at += c.bytes;
  }
  encode(piece.substr(begin));
}

}  // namespace lombard::tokenization
