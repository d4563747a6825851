// Reading of the small JSON files of a checkpoint (config.json and its kin), and typed access to their
// fields. Every error names the file, the field, what was expected and what was found. Nothing throws.
#pragma once

#include <simdjson.h>

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"

namespace lombard {

// The fields of one JSON object. A view: the parser it came from must outlive it. Absent and null are the
// same thing.
class JsonFields {
 public:
  JsonFields(simdjson::dom::object object, std::string where) : object_(object), where_(std::move(where)) {}

  // "config.json: rope_scaling", for messages.
  const std::string& where() const { return where_; }
  bool Has(const char* key) const { return Find(key).has_value(); }
  bool IsNull(const char* key) const;  // present, and null
  std::optional<simdjson::dom::element> Find(const char* key) const;

  // The field, or `fallback` when absent; without fallback, absence is an error. Integers must lie in [min,
  // max].
  absl::StatusOr<int64_t> Int(const char* key, int64_t min, int64_t max,
                              std::optional<int64_t> fallback = {}) const;
  absl::StatusOr<double> Number(const char* key, std::optional<double> fallback = {}) const;
  absl::StatusOr<bool> Bool(const char* key, bool fallback) const;
  absl::StatusOr<std::string> String(const char* key, std::optional<std::string> fallback = {}) const;
  absl::StatusOr<std::optional<JsonFields>> Object(const char* key) const;
  // A number or a list of numbers; empty when absent.
  absl::StatusOr<std::vector<int64_t>> Ints(const char* key) const;
  absl::StatusOr<std::vector<std::string>> Strings(const char* key) const;

  // "config.json: hidden_size: expected a whole number, found \"a\"".
  absl::Status Wrong(const char* key, absl::string_view expected, simdjson::dom::element found) const;
  absl::Status Missing(const char* key) const;

 private:
  simdjson::dom::object object_;
  std::string where_;
};

// A parsed file; owns what its fields point into. Not copyable, since views would dangle.
class JsonFile {
 public:
  // kNotFound, or kInvalidArgument for text that is no JSON object.
  static absl::StatusOr<std::unique_ptr<JsonFile>> Read(const std::string& path);
  static absl::StatusOr<std::unique_ptr<JsonFile>> Parse(const std::string& text, const std::string& name);
  const JsonFields& fields() const { return *fields_; }

 private:
  simdjson::dom::parser parser_;
  std::optional<JsonFields> fields_;
};

}  // namespace lombard
