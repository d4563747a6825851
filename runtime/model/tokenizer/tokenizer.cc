#include "runtime/model/tokenizer/tokenizer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status.h"
#include "runtime/model/tokenizer/tokenizer_parts.h"
#include "runtime/model/tokenizer/unicode.h"

namespace lombard {

using tokenization::AddedToken;
using tokenization::DecoderChain;
using tokenization::JsonField;
using tokenization::PieceList;
using tokenization::TokenizerParts;
using tokenization::WordCache;

namespace tokenization {

struct StreamState {
  explicit StreamState(const DecoderChain& decoder) : repair(decoder.has_byte_fallback()) {}
  DecoderChain::State chain;
  Utf8Repair repair;
};

}  // namespace tokenization

namespace {

absl::StatusOr<JsonField> ParseJson(absl::string_view text, absl::string_view source,
                                    simdjson::dom::parser* parser) {
  simdjson::dom::element root;
  const simdjson::error_code error = parser->parse(text.data(), text.size()).get(root);
  if (error != simdjson::SUCCESS) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": not valid JSON: ", simdjson::error_message(error)));
  }
  return JsonField(root, std::string(source));
}

// Calls text(token) for the spelling of each id that is decoded.
template <typename Consumer>
void ForEachToken(const TokenizerParts& parts, absl::Span<const int32_t> ids, bool skip_special_tokens,
                  Consumer consume) {
  for (const int32_t id : ids) {
    if (const AddedToken* token = parts.added_tokens.ById(id); token != nullptr) {
      if (!(skip_special_tokens && token->special)) consume(absl::string_view(token->spelling));
    } else if (id >= 0 && id < static_cast<int32_t>(parts.model.tokens().size()) &&
               !parts.model.tokens()[id].empty()) {
      consume(absl::string_view(parts.model.tokens()[id]));
    }
  }
}

// Text without raw added tokens: normalize, take the normalized added tokens out, cut, encode.
void EncodeStretch(const TokenizerParts& parts, absl::string_view stretch, bool at_start, WordCache* cache,
                   std::vector<int32_t>* ids) {
  std::string text(stretch);
  if (parts.normalizer != nullptr) text = parts.normalizer->Apply(std::move(text));
  parts.added_tokens.Split(text, /*normalized=*/true, [&](size_t begin, size_t end, const AddedToken* token) {
    if (token != nullptr) {
      ids->push_back(token->id);
      return;
    }
    PieceList list;
    list.text = text.substr(begin, end - begin);
    list.pieces.push_back({0, list.text.size(), at_start && begin == 0});
    if (parts.pre_tokenizer != nullptr) parts.pre_tokenizer->Apply(&list);
    for (const PieceList::Piece& piece : list.pieces) parts.model.Encode(list.View(piece), cache, ids);
  });
}

}  // namespace

Tokenizer::Tokenizer(std::unique_ptr<TokenizerParts> parts) : parts_(std::move(parts)) {}
Tokenizer::~Tokenizer() = default;

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(const std::string& model_dir) {
  const std::string path = absl::StrCat(model_dir, "/tokenizer.json");
  ASSIGN_OR_RETURN(const std::string json, ReadWholeFile(path));
  const std::string config_path = absl::StrCat(model_dir, "/tokenizer_config.json");
  const absl::StatusOr<std::string> config = ReadWholeFile(config_path);
  if (absl::IsNotFound(config.status())) return Parse(json, path);
  RETURN_IF_ERROR(config.status());
  return Parse(json, path, *config, config_path);
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Parse(absl::string_view tokenizer_json,
                                                            absl::string_view source) {
  return Parse(tokenizer_json, source, "{}", "no tokenizer_config.json");
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Parse(absl::string_view tokenizer_json,
                                                            absl::string_view source,
                                                            absl::string_view tokenizer_config_json,
                                                            absl::string_view config_source) {
  simdjson::dom::parser parser, config_parser;
  ASSIGN_OR_RETURN(const JsonField json, ParseJson(tokenizer_json, source, &parser));
  ASSIGN_OR_RETURN(const JsonField config, ParseJson(tokenizer_config_json, config_source, &config_parser));
  ASSIGN_OR_RETURN(std::unique_ptr<TokenizerParts> parts, tokenization::ParseTokenizer(json, config));
  return std::unique_ptr<Tokenizer>(new Tokenizer(std::move(parts)));
}

std::vector<int32_t> Tokenizer::Encode(absl::string_view text, bool add_special_tokens) const {
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 3 + 8);
  if (add_special_tokens) ids = parts_->post_processor.prefix;
  const std::string form = tokenization::EscapeInvalidUtf8(text);
  WordCache cache;
  parts_->added_tokens.Split(form, /*normalized=*/false,
                             [&](size_t begin, size_t end, const AddedToken* token) {
                               if (token != nullptr) {
                                 ids.push_back(token->id);
                               } else {
                                 EncodeStretch(*parts_, absl::string_view(form).substr(begin, end - begin),
                                               begin == 0, &cache, &ids);
                               }
                             });
  if (add_special_tokens) {
    ids.insert(ids.end(), parts_->post_processor.suffix.begin(), parts_->post_processor.suffix.end());
  }
  return ids;
}

std::string Tokenizer::DecodeBytes(absl::Span<const int32_t> ids, bool skip_special_tokens) const {
  DecoderChain::State state;
  std::string bytes;
  ForEachToken(*parts_, ids, skip_special_tokens,
               [&](absl::string_view token) { bytes += parts_->decoder.Push(token, &state); });
  return bytes + parts_->decoder.Finish(&state);
}

std::string Tokenizer::Decode(absl::Span<const int32_t> ids, bool skip_special_tokens) const {
  tokenization::Utf8Repair repair(parts_->decoder.has_byte_fallback());
  std::string text = repair.Push(DecodeBytes(ids, skip_special_tokens));
  return text + repair.Finish();
}

int Tokenizer::vocab_size() const { return parts_->vocab_size; }

bool Tokenizer::IsSpecial(int32_t id) const {
  const AddedToken* token = parts_->added_tokens.ById(id);
  return token != nullptr && token->special;
}

std::optional<int32_t> Tokenizer::TokenId(absl::string_view token) const {
  if (const AddedToken* added = parts_->added_tokens.ByContent(token); added != nullptr) return added->id;
  return parts_->model.Find(token);
}

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool skip_special_tokens)
    : tokenizer_(&tokenizer),
      skip_special_tokens_(skip_special_tokens),
      state_(std::make_unique<tokenization::StreamState>(tokenizer.parts_->decoder)) {}
StreamDecoder::~StreamDecoder() = default;
StreamDecoder::StreamDecoder(StreamDecoder&&) noexcept = default;
StreamDecoder& StreamDecoder::operator=(StreamDecoder&&) noexcept = default;

std::string StreamDecoder::Push(int32_t id) {
  std::string text;
  ForEachToken(*tokenizer_->parts_, {id}, skip_special_tokens_, [&](absl::string_view token) {
    text = state_->repair.Push(tokenizer_->parts_->decoder.Push(token, &state_->chain));
  });
  return text;
}

std::string StreamDecoder::Finish() {
  std::string text = state_->repair.Push(tokenizer_->parts_->decoder.Finish(&state_->chain));
  return text + state_->repair.Finish();
}

}  // namespace lombard
