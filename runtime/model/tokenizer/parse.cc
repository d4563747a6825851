// tokenizer.json and tokenizer_config.json to TokenizerParts.
#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "runtime/model/tokenizer/tokenizer_parts.h"

namespace lombard::tokenization {
namespace {

// The part that both files write alike; the id stands elsewhere.
absl::StatusOr<AddedToken> ParseAddedToken(const JsonField& json) {
  AddedToken token;
  ASSIGN_OR_RETURN(const absl::string_view content, json.GetString("content"));
  token.content = std::string(content);
  ASSIGN_OR_RETURN(token.single_word, json.GetBool("single_word", false));
  ASSIGN_OR_RETURN(token.lstrip, json.GetBool("lstrip", false));
  ASSIGN_OR_RETURN(token.rstrip, json.GetBool("rstrip", false));
  ASSIGN_OR_RETURN(token.special, json.GetBool("special", false));
  ASSIGN_OR_RETURN(token.normalized, json.GetBool("normalized", !token.special));
  return token;
}

absl::Status AppendAddedTokens(const JsonField& json, std::vector<AddedToken>* tokens) {
  ASSIGN_OR_RETURN(const std::optional<JsonField> list, json.Find("added_tokens"));
  if (!list.has_value()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::vector<JsonField> items, list->AsArray());
  for (const JsonField& item : items) {
    ASSIGN_OR_RETURN(AddedToken token, ParseAddedToken(item));
    ASSIGN_OR_RETURN(const JsonField id, item.Get("id"));
    ASSIGN_OR_RETURN(const int64_t number, id.AsInt(0, kTokenIdMax));
    token.id = static_cast<int32_t>(number);
    tokens->push_back(std::move(token));
  }
  return absl::OkStatus();
}

// tokenizer_config.json: {"added_tokens_decoder": {"32000": {"content": ...}}}.
absl::Status AppendConfigTokens(const JsonField& config, const BpeModel& model,
                                std::vector<AddedToken>* tokens) {
  ASSIGN_OR_RETURN(const std::optional<JsonField> table, config.Find("added_tokens_decoder"));
  if (!table.has_value()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const simdjson::dom::object object, table->AsObject());
  for (const auto& [key, value] : object) {
    const absl::string_view name(key.data(), key.size());
    ASSIGN_OR_RETURN(const JsonField entry, table->Get(name));
    ASSIGN_OR_RETURN(AddedToken token, ParseAddedToken(entry));
    if (!absl::SimpleAtoi(name, &token.id) || token.id < 0 || token.id > kTokenIdMax) {
      return entry.Error(absl::StrCat("expected an id from 0 to ", kTokenIdMax, " as key"));
    }
    // The tokenizer.json knows better which id a token has; a config may be left over from another model.
    std::optional<int32_t> known = model.Find(token.content);
    for (const AddedToken& other : *tokens) {
      if (other.content == token.content) known = other.id;
    }
    token.id = known.value_or(token.id);
    tokens->push_back(std::move(token));
  }
  return absl::OkStatus();
}

// A special token named in tokenizer_config.json, as a string or as an object with its content.
absl::StatusOr<std::optional<int32_t>> ConfigTokenId(const JsonField& config, absl::string_view key,
                                                     const TokenizerParts& parts) {
  ASSIGN_OR_RETURN(std::optional<JsonField> field, config.Find(key));
  if (!field.has_value()) return std::nullopt;
  if (field->value().is_object()) {
    ASSIGN_OR_RETURN(field, field->Get("content"));
  }
  ASSIGN_OR_RETURN(const absl::string_view content, field->AsString());
  if (const AddedToken* token = parts.added_tokens.ByContent(content); token != nullptr) return token->id;
  return parts.model.Find(content);
}

// add_bos_token and add_eos_token, where given, decide about that token and leave others in the template
// alone.
absl::Status ApplyAddToken(const JsonField& config, absl::string_view switch_key, absl::string_view token_key,
                           bool front, TokenizerParts* parts) {
  ASSIGN_OR_RETURN(const std::optional<JsonField> wanted_json, config.Find(switch_key));
  if (!wanted_json.has_value()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const bool wanted, wanted_json->AsBool());
  ASSIGN_OR_RETURN(const std::optional<int32_t> id, ConfigTokenId(config, token_key, *parts));
  if (!id.has_value()) {
    if (!wanted) return absl::OkStatus();
    return wanted_json->Error(absl::StrCat("is true, but ", token_key, " names no token of the vocabulary"));
  }
  std::vector<int32_t>& ids = front ? parts->post_processor.prefix : parts->post_processor.suffix;
  const auto present = std::find(ids.begin(), ids.end(), *id);
  if (wanted && present == ids.end()) ids.insert(front ? ids.begin() : ids.end(), *id);
  if (!wanted && present != ids.end()) ids.erase(present);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<TokenizerParts>> ParseTokenizer(const JsonField& json,
                                                               const JsonField& config) {
  auto parts = std::make_unique<TokenizerParts>();
  ASSIGN_OR_RETURN(const JsonField model, json.Get("model"));
  ASSIGN_OR_RETURN(parts->model, BpeModel::Parse(model));
  ASSIGN_OR_RETURN(const std::optional<JsonField> normalizer, json.Find("normalizer"));
  if (normalizer.has_value()) {
    ASSIGN_OR_RETURN(parts->normalizer, ParseNormalizer(*normalizer));
  }
  ASSIGN_OR_RETURN(const std::optional<JsonField> pre_tokenizer, json.Find("pre_tokenizer"));
  if (pre_tokenizer.has_value()) {
    ASSIGN_OR_RETURN(parts->pre_tokenizer, ParsePreTokenizer(*pre_tokenizer));
  }
  ASSIGN_OR_RETURN(const std::optional<JsonField> post_processor, json.Find("post_processor"));
  if (post_processor.has_value()) RETURN_IF_ERROR(parts->post_processor.Add(*post_processor));
  ASSIGN_OR_RETURN(const std::optional<JsonField> decoder, json.Find("decoder"));
  if (decoder.has_value()) {
    ASSIGN_OR_RETURN(parts->decoder, DecoderChain::Parse(*decoder));
  }
  std::vector<AddedToken> tokens;
  RETURN_IF_ERROR(AppendAddedTokens(json, &tokens));
  RETURN_IF_ERROR(AppendConfigTokens(config, parts->model, &tokens));
  parts->added_tokens = AddedTokens(std::move(tokens), parts->normalizer.get());
  RETURN_IF_ERROR(ApplyAddToken(config, "add_bos_token", "bos_token", /*front=*/true, parts.get()));
  RETURN_IF_ERROR(ApplyAddToken(config, "add_eos_token", "eos_token", /*front=*/false, parts.get()));

  parts->vocab_size = static_cast<int32_t>(parts->model.tokens().size());
  for (const AddedToken& token : parts->added_tokens.tokens())
    parts->vocab_size = std::max(parts->vocab_size, token.id + 1);
  for (const std::vector<int32_t>* ids : {&parts->post_processor.prefix, &parts->post_processor.suffix}) {
    for (const int32_t id : *ids) {
      if (id >= parts->vocab_size) {
        return json.Error(
            absl::StrCat("post_processor: id ", id, " is not in the vocabulary of ", parts->vocab_size));
      }
    }
  }
  return parts;
}

}  // namespace lombard::tokenization
