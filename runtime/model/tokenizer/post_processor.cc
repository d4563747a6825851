#include "runtime/model/tokenizer/post_processor.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "runtime/model/tokenizer/bpe.h"
#include "runtime/model/tokenizer/json_field.h"

namespace lombard::tokenization {
namespace {

// The ids behind a name in a template.
absl::StatusOr<std::vector<int32_t>> SpecialIds(const JsonField& json, absl::string_view name) {
  ASSIGN_OR_RETURN(const JsonField table, json.Get("special_tokens"));
  ASSIGN_OR_RETURN(const JsonField entry, table.Get(name));
  ASSIGN_OR_RETURN(const JsonField list, entry.Get("ids"));
  ASSIGN_OR_RETURN(const std::vector<JsonField> items, list.AsArray());
  std::vector<int32_t> ids;
  for (const JsonField& item : items) {
    ASSIGN_OR_RETURN(const int64_t id, item.AsInt(0, kTokenIdMax));
    ids.push_back(static_cast<int32_t>(id));
  }
  return ids;
}

absl::Status AddTemplate(const JsonField& json, PostProcessor* out) {
  ASSIGN_OR_RETURN(const JsonField single, json.Get("single"));
  ASSIGN_OR_RETURN(const std::vector<JsonField> parts, single.AsArray());
  std::vector<int32_t> before, behind;
  bool text_seen = false;
  for (const JsonField& part : parts) {
    ASSIGN_OR_RETURN(const std::optional<JsonField> special, part.Find("SpecialToken"));
    if (special.has_value()) {
      ASSIGN_OR_RETURN(const absl::string_view name, special->GetString("id"));
      ASSIGN_OR_RETURN(const std::vector<int32_t> ids, SpecialIds(json, name));
      std::vector<int32_t>& side = text_seen ? behind : before;
      side.insert(side.end(), ids.begin(), ids.end());
      continue;
    }
    ASSIGN_OR_RETURN(const JsonField sequence, part.Get("Sequence"));
    ASSIGN_OR_RETURN(const absl::string_view id, sequence.GetString("id"));
    if (id != "A" || text_seen)
      return sequence.Error("a template for single texts has sequence A exactly once");
    text_seen = true;
  }
  if (!text_seen) return single.Error("a template for single texts has sequence A exactly once");
  before.insert(before.end(), out->prefix.begin(), out->prefix.end());
  out->prefix = std::move(before);
  out->suffix.insert(out->suffix.end(), behind.begin(), behind.end());
  return absl::OkStatus();
}

}  // namespace

absl::Status PostProcessor::Add(const JsonField& json) {
  ASSIGN_OR_RETURN(const absl::string_view type, json.GetString("type"));
  if (type == "Sequence") {
    ASSIGN_OR_RETURN(const JsonField list, json.Get("processors"));
    ASSIGN_OR_RETURN(const std::vector<JsonField> items, list.AsArray());
    for (const JsonField& item : items) RETURN_IF_ERROR(Add(item));
    return absl::OkStatus();
  }
  if (type == "TemplateProcessing") return AddTemplate(json, this);
  if (type == "ByteLevel") return absl::OkStatus();
  return absl::UnimplementedError(
      json.Error(absl::StrCat("post-processor ", type, " is not supported")).message());
}

}  // namespace lombard::tokenization
