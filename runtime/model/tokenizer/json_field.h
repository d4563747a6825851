// A value inside a JSON document together with where it stands, so that every error names file and field:
// "tokenizer.json: model.merges[17]: expected a string, found a number". Internal to the tokenizer.
#pragma once

#include <simdjson.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace lombard::tokenization {

// A view: the parser that made the element must outlive it, as must views taken from it. Errors are
// kInvalidArgument.
class JsonField {
 public:
  // `path` is the source's name for a document's root, else built by the accessors.
  JsonField(simdjson::dom::element value, std::string path) : value_(value), path_(std::move(path)) {}

  const simdjson::dom::element& value() const { return value_; }
  absl::Status Error(absl::string_view message) const;
  // "expected `expected`, found a number".
  absl::Status Expected(absl::string_view expected) const;

  absl::StatusOr<absl::string_view> AsString() const;
  absl::StatusOr<bool> AsBool() const;
  absl::StatusOr<int64_t> AsInt(int64_t min, int64_t max) const;
  absl::StatusOr<std::vector<JsonField>> AsArray() const;
  absl::StatusOr<simdjson::dom::object> AsObject() const;

  // Members of an object. Get: must be there. Find: nullopt where absent or null.
  absl::StatusOr<JsonField> Get(absl::string_view key) const;
  absl::StatusOr<std::optional<JsonField>> Find(absl::string_view key) const;
  absl::StatusOr<absl::string_view> GetString(absl::string_view key) const;
  absl::StatusOr<bool> GetBool(absl::string_view key, bool if_absent) const;
  // A string of exactly one character, as its code point.
  absl::StatusOr<uint32_t> GetCharacter(absl::string_view key,
                                        std::optional<uint32_t> if_absent = std::nullopt) const;

 private:
  simdjson::dom::element value_;
  std::string path_;
  bool root_ = true;
};

}  // namespace lombard::tokenization
