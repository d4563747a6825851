#include "runtime/model/tokenizer/json_field.h"

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "runtime/model/tokenizer/unicode.h"

namespace lombard::tokenization {
namespace {

absl::string_view TypeName(simdjson::dom::element_type type) {
  switch (type) {
    case simdjson::dom::element_type::ARRAY:
      return "an array";
    case simdjson::dom::element_type::OBJECT:
      return "an object";
    case simdjson::dom::element_type::STRING:
      return "a string";
    case simdjson::dom::element_type::BOOL:
      return "a boolean";
    case simdjson::dom::element_type::NULL_VALUE:
      return "null";
    default:
      return "a number";
  }
}

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

}  // namespace

absl::Status JsonField::Error(absl::string_view message) const {
  return absl::InvalidArgumentError(absl::StrCat(path_, ": ", message));
}

absl::Status JsonField::Expected(absl::string_view expected) const {
  return Error(absl::StrCat("expected ", expected, ", found ", TypeName(value_.type())));
}

absl::StatusOr<absl::string_view> JsonField::AsString() const {
  std::string_view text;
  if (value_.get(text) != simdjson::SUCCESS) return Expected("a string");
  return View(text);
}

absl::StatusOr<bool> JsonField::AsBool() const {
  bool flag = false;
  if (value_.get(flag) != simdjson::SUCCESS) return Expected("a boolean");
  return flag;
}

absl::StatusOr<int64_t> JsonField::AsInt(int64_t min, int64_t max) const {
  int64_t number = 0;
  if (value_.get(number) != simdjson::SUCCESS)
    return Expected(absl::StrCat("an integer from ", min, " to ", max));
  if (number < min || number > max) return Error(absl::StrCat(number, " is outside ", min, " to ", max));
  return number;
}

absl::StatusOr<std::vector<JsonField>> JsonField::AsArray() const {
  simdjson::dom::array array;
  if (value_.get(array) != simdjson::SUCCESS) return Expected("an array");
  std::vector<JsonField> out;
  for (const simdjson::dom::element item : array) {
    out.push_back(JsonField(item, absl::StrCat(path_, "[", out.size(), "]")));
    out.back().root_ = false;
  }
  return out;
}

absl::StatusOr<simdjson::dom::object> JsonField::AsObject() const {
  simdjson::dom::object object;
  if (value_.get(object) != simdjson::SUCCESS) return Expected("an object");
  return object;
}

absl::StatusOr<std::optional<JsonField>> JsonField::Find(absl::string_view key) const {
  ASSIGN_OR_RETURN(const simdjson::dom::object object, AsObject());
  simdjson::dom::element item;
  if (object.at_key(std::string_view(key.data(), key.size())).get(item) != simdjson::SUCCESS)
    return std::nullopt;
  if (item.is_null()) return std::nullopt;
  JsonField field(item, absl::StrCat(path_, root_ ? ": " : ".", key));
  field.root_ = false;
  return field;
}

absl::StatusOr<JsonField> JsonField::Get(absl::string_view key) const {
  ASSIGN_OR_RETURN(std::optional<JsonField> field, Find(key));
  if (!field.has_value()) return Error(absl::StrCat("\"", key, "\" is missing"));
  return *std::move(field);
}

absl::StatusOr<absl::string_view> JsonField::GetString(absl::string_view key) const {
  ASSIGN_OR_RETURN(const JsonField field, Get(key));
  return field.AsString();
}

absl::StatusOr<bool> JsonField::GetBool(absl::string_view key, bool if_absent) const {
  ASSIGN_OR_RETURN(const std::optional<JsonField> field, Find(key));
  if (!field.has_value()) return if_absent;
  return field->AsBool();
}

absl::StatusOr<uint32_t> JsonField::GetCharacter(absl::string_view key,
                                                 std::optional<uint32_t> if_absent) const {
  ASSIGN_OR_RETURN(const std::optional<JsonField> field, Find(key));
  if (!field.has_value() && if_absent.has_value()) return *if_absent;
  ASSIGN_OR_RETURN(const absl::string_view text, GetString(key));
  if (text.empty() || ReadCodePoint(text, 0).bytes != text.size()) {
    return field->Error(absl::StrCat("expected one character, found \"", text, "\""));
  }
  return ReadCodePoint(text, 0).value;
}

}  // namespace lombard::tokenization
