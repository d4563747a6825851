#include "runtime/model/tokenizer/pattern.h"

#include <utility>

#include "base/status.h"

namespace lombard::tokenization {

absl::StatusOr<Pattern> Pattern::Parse(const JsonField& json) {
  ASSIGN_OR_RETURN(const std::optional<JsonField> literal, json.Find("String"));
  if (literal.has_value()) {
    ASSIGN_OR_RETURN(const absl::string_view text, literal->AsString());
    return Literal(text);
  }
  ASSIGN_OR_RETURN(const std::optional<JsonField> regex, json.Find("Regex"));
  if (!regex.has_value()) return json.Error("expected {\"String\": ...} or {\"Regex\": ...}");
  ASSIGN_OR_RETURN(const absl::string_view text, regex->AsString());
  auto compiled = Regex::Compile(text);
  if (!compiled.ok()) return regex->Error(compiled.status().message());
  Pattern pattern;
  pattern.regex_ = *std::move(compiled);
  return pattern;
}

Pattern Pattern::Literal(absl::string_view literal) {
  Pattern pattern;
  pattern.literal_ = std::string(literal);
  return pattern;
}

void Pattern::ForEachMatch(absl::string_view text, absl::FunctionRef<void(size_t, size_t)> found) const {
  if (regex_.has_value()) return regex_->ForEachMatch(text, found);
  if (literal_.empty()) return;
  for (size_t at = text.find(literal_); at != absl::string_view::npos;
       at = text.find(literal_, at + literal_.size())) {
    found(at, at + literal_.size());
  }
}

std::string Pattern::Replace(absl::string_view text, absl::string_view content) const {
  std::string out;
  out.reserve(text.size() + text.size() / 4);
  size_t from = 0;
  ForEachMatch(text, [&](size_t begin, size_t end) {
    out.append(text.data() + from, begin - from);
    out.append(content.data(), content.size());
    from = end;
  });
  out.append(text.data() + from, text.size() - from);
  return out;
}

}  // namespace lombard::tokenization
