#include "runtime/model/json_file.h"

#include <cmath>

#include "base/file.h"
#include "base/status.h"

namespace lombard {

namespace dom = simdjson::dom;

namespace {

// A value as it stands in the file, cut to a length that fits a message.
std::string Shown(dom::element element) {
  std::string text = simdjson::minify(element);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

std::optional<double> AsNumber(dom::element element) {
  double value;
  if (element.is_bool() || element.get(value) != simdjson::SUCCESS || !std::isfinite(value))
    return std::nullopt;
  return value;
}

std::optional<int64_t> AsInt(dom::element element) {
  int64_t value;
  if (element.get(value) == simdjson::SUCCESS) return value;
  // 4096.0 is a whole number too: some tools write every number as a decimal.
  const std::optional<double> number = AsNumber(element);
  if (!number || *number != std::floor(*number) || std::fabs(*number) > 1e15) return std::nullopt;
  return static_cast<int64_t>(*number);
}

}  // namespace

std::optional<dom::element> JsonFields::Find(const char* key) const {
  dom::element element;
  if (object_.at_key(key).get(element) != simdjson::SUCCESS || element.is_null()) return std::nullopt;
  return element;
}

bool JsonFields::IsNull(const char* key) const {
  dom::element element;
  return object_.at_key(key).get(element) == simdjson::SUCCESS && element.is_null();
}

absl::Status JsonFields::Wrong(const char* key, absl::string_view expected, dom::element found) const {
  return absl::InvalidArgumentError(
      absl::StrCat(where_, ": ", key, ": expected ", expected, ", found ", Shown(found)));
}

absl::Status JsonFields::Missing(const char* key) const {
  return absl::InvalidArgumentError(absl::StrCat(where_, ": ", key, " is missing"));
}

absl::StatusOr<int64_t> JsonFields::Int(const char* key, int64_t min, int64_t max,
                                        std::optional<int64_t> fallback) const {
  const auto element = Find(key);
  if (!element) {
    if (!fallback) return Missing(key);
    return *fallback;
  }
  const std::optional<int64_t> value = AsInt(*element);
  if (!value || *value < min || *value > max) {
    return Wrong(key, absl::StrCat("a whole number from ", min, " to ", max), *element);
  }
  return *value;
}

absl::StatusOr<double> JsonFields::Number(const char* key, std::optional<double> fallback) const {
  const auto element = Find(key);
  if (!element) {
    if (!fallback) return Missing(key);
    return *fallback;
  }
  const std::optional<double> value = AsNumber(*element);
  if (!value) return Wrong(key, "a number", *element);
  return *value;
}

absl::StatusOr<bool> JsonFields::Bool(const char* key, bool fallback) const {
  const auto element = Find(key);
  if (!element) return fallback;
  bool value;
  if (element->get(value) != simdjson::SUCCESS) return Wrong(key, "true or false", *element);
  return value;
}

absl::StatusOr<std::string> JsonFields::String(const char* key, std::optional<std::string> fallback) const {
  const auto element = Find(key);
  if (!element) {
    if (!fallback) return Missing(key);
    return *fallback;
  }
  std::string_view value;
  if (element->get(value) != simdjson::SUCCESS) return Wrong(key, "a string", *element);
  return std::string(value);
}

absl::StatusOr<std::optional<JsonFields>> JsonFields::Object(const char* key) const {
  const auto element = Find(key);
  if (!element) return std::optional<JsonFields>();
  dom::object object;
  if (element->get(object) != simdjson::SUCCESS) return Wrong(key, "an object", *element);
  return std::optional<JsonFields>(JsonFields(object, absl::StrCat(where_, ": ", key)));
}

absl::StatusOr<std::vector<int64_t>> JsonFields::Ints(const char* key) const {
  std::vector<int64_t> values;
  const auto element = Find(key);
  if (!element) return values;
  if (const auto value = AsInt(*element)) return std::vector<int64_t>{*value};
  dom::array array;
  if (element->get(array) != simdjson::SUCCESS)
    return Wrong(key, "a whole number or a list of them", *element);
  for (dom::element item : array) {
    const auto value = AsInt(item);
    if (!value) return Wrong(key, "a list of whole numbers", item);
    values.push_back(*value);
  }
  return values;
}

absl::StatusOr<std::vector<std::string>> JsonFields::Strings(const char* key) const {
  std::vector<std::string> values;
  const auto element = Find(key);
  if (!element) return values;
  dom::array array;
  if (element->get(array) != simdjson::SUCCESS) return Wrong(key, "a list of strings", *element);
  for (dom::element item : array) {
    std::string_view value;
    if (item.get(value) != simdjson::SUCCESS) return Wrong(key, "a list of strings", item);
    values.emplace_back(value);
  }
  return values;
}

absl::StatusOr<std::unique_ptr<JsonFile>> JsonFile::Read(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(path));
  return Parse(text, path);
}

absl::StatusOr<std::unique_ptr<JsonFile>> JsonFile::Parse(const std::string& text, const std::string& name) {
  auto file = std::make_unique<JsonFile>();
  dom::element root;
  if (const auto error = file->parser_.parse(text).get(root); error != simdjson::SUCCESS) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": not valid JSON: ", simdjson::error_message(error)));
  }
  dom::object object;
  if (root.get(object) != simdjson::SUCCESS) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": expected a JSON object, found ", Shown(root)));
  }
  file->fields_.emplace(object, name);
  return file;
}

}  // namespace lombard
