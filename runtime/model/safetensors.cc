#include "runtime/model/safetensors.h"

#include <simdjson.h>

#include <algorithm>
#include <cstring>
#include <tuple>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_join.h"
#include "base/status.h"

namespace lombard {
namespace {

namespace dom = simdjson::dom;

constexpr uint64_t kHeaderBytesMax = 100'000'000;  // the format's own limit
constexpr uint64_t kRankMax = 16;

struct DTypeSize {
  std::string_view name;
  uint64_t bits;
};
constexpr DTypeSize kSizes[] = {
    {"F64", 64}, {"F32", 32},    {"F16", 16},    {"BF16", 16},   {"I64", 64}, {"I32", 32},
    {"I16", 16}, {"I8", 8},      {"U64", 64},    {"U32", 32},    {"U16", 16}, {"U8", 8},
    {"BOOL", 8}, {"F8_E4M3", 8}, {"F8_E5M2", 8}, {"F8_E8M0", 8}, {"C64", 64},
};

class Parser {
 public:
  Parser(absl::Span<const std::byte> head, uint64_t file_bytes, const std::string& file)
      : head_(head), file_bytes_(file_bytes), file_(file) {}

  absl::StatusOr<SafetensorsHeader> Parse() {
    RETURN_IF_ERROR(FindHeader());
    dom::parser parser;
    const simdjson::padded_string text(reinterpret_cast<const char*>(head_.data()) + 8, header_bytes_);
    dom::element root;
    dom::object entries;
    if (const auto error = parser.parse(text).get(root); error != simdjson::SUCCESS) {
      return Wrong(absl::StrCat("the header is not valid JSON: ", simdjson::error_message(error)));
    }
    if (root.get(entries) != simdjson::SUCCESS) return Wrong("the header is not a JSON object");

    SafetensorsHeader header;
    absl::flat_hash_set<std::string> names;
    for (const auto [key, value] : entries) {
      const std::string name(key);
      if (!names.insert(name).second) return Wrong(absl::StrCat("the header names ", name, " twice"));
      if (name == "__metadata__") {
        RETURN_IF_ERROR(ReadMetadata(value, &header));
      } else {
        RETURN_IF_ERROR(ReadTensor(name, value, &header));
      }
    }
    RETURN_IF_ERROR(CheckLayout(&header.tensors));
    return header;
  }

 private:
  absl::Status Wrong(const std::string& what) const {
    return absl::InvalidArgumentError(absl::StrCat(file_, ": ", what));
  }
  absl::Status Wrong(const std::string& tensor, const std::string& what) const {
    return Wrong(absl::StrCat("tensor ", tensor, ": ", what));
  }

  absl::Status FindHeader() {
    if (file_bytes_ < 8 || head_.size() < 8) {
      return Wrong(absl::StrCat("truncated: expected at least 8 bytes, found ",
                                std::min<uint64_t>(file_bytes_, head_.size())));
    }
    header_bytes_ = 0;
    for (int i = 7; i >= 0; --i) header_bytes_ = header_bytes_ << 8 | static_cast<uint64_t>(head_[i]);
    if (header_bytes_ > kHeaderBytesMax) {
      return Wrong(absl::StrCat("the header claims ", header_bytes_,
                                " bytes, more than the format's limit of ", kHeaderBytesMax,
                                "; this is probably no safetensors file"));
    }
    if (header_bytes_ > file_bytes_ - 8 || header_bytes_ > head_.size() - 8) {
      return Wrong(absl::StrCat("truncated: the header claims ", header_bytes_, " bytes, the file has ",
                                file_bytes_ - 8, " after it starts"));
    }
    data_bytes_ = file_bytes_ - 8 - header_bytes_;
    return absl::OkStatus();
  }

  absl::Status ReadMetadata(dom::element value, SafetensorsHeader* header) const {
    dom::object entries;
    if (value.is_null()) return absl::OkStatus();
    if (value.get(entries) != simdjson::SUCCESS) return Wrong("__metadata__ is not a JSON object");
    for (const auto [key, text] : entries) {
      std::string_view string;
      if (text.get(string) != simdjson::SUCCESS)
        return Wrong(absl::StrCat("__metadata__: ", std::string(key), " is not a string"));
      header->metadata[std::string(key)] = std::string(string);
    }
    return absl::OkStatus();
  }

  absl::Status ReadTensor(const std::string& name, dom::element value, SafetensorsHeader* header) const {
    dom::object entry;
    if (value.get(entry) != simdjson::SUCCESS)
      return Wrong(name, "expected an object with dtype, shape and data_offsets");
    std::string_view dtype;
    dom::array shape, offsets;
    if (entry.at_key("dtype").get(dtype) != simdjson::SUCCESS)
      return Wrong(name, "dtype is missing or not a string");
    if (entry.at_key("shape").get(shape) != simdjson::SUCCESS)
      return Wrong(name, "shape is missing or not a list");
    if (entry.at_key("data_offsets").get(offsets) != simdjson::SUCCESS)
      return Wrong(name, "data_offsets is missing or not a list");

    TensorInfo tensor{.name = name, .dtype = std::string(dtype)};
    unsigned __int128 elements = 1;
    for (dom::element item : shape) {
      uint64_t dim;
      if (item.get(dim) != simdjson::SUCCESS || dim > INT64_MAX)
        return Wrong(name, "shape: expected whole numbers from 0");
      tensor.shape.push_back(static_cast<int64_t>(dim));
      if (tensor.shape.size() > kRankMax)
        return Wrong(name, absl::StrCat("shape: more than ", kRankMax, " dimensions"));
      elements *= dim;
      if (elements > UINT64_MAX / 64)
        return Wrong(name, absl::StrCat("shape ", tensor.ShapeText(), " has more elements than any file"));
    }
    uint64_t range[2];
    size_t count = 0;
    for (dom::element item : offsets) {
      if (count == 2 || item.get(range[count]) != simdjson::SUCCESS) count = 3;
      if (count > 2) break;
      ++count;
    }
    if (count != 2) return Wrong(name, "data_offsets: expected two whole numbers");
    if (range[0] > range[1] || range[1] > data_bytes_) {
      return Wrong(name, absl::StrCat("data_offsets: expected begin <= end <= ", data_bytes_,
                                      " (the bytes of data in the file), found [", range[0], ", ", range[1],
                                      "]; the file may be truncated"));
    }
    const auto size = std::find_if(std::begin(kSizes), std::end(kSizes),
                                   [&](const DTypeSize& s) { return s.name == dtype; });
    if (size != std::end(kSizes)) {
      const uint64_t expected = static_cast<uint64_t>(elements) * size->bits / 8;
      if (range[1] - range[0] != expected) {
        return Wrong(name, absl::StrCat(tensor.dtype, " ", tensor.ShapeText(), ": expected ", expected,
                                        " bytes, found ", range[1] - range[0]));
      }
    }
    tensor.begin = 8 + header_bytes_ + range[0];
    tensor.end = 8 + header_bytes_ + range[1];
    header->tensors.push_back(std::move(tensor));
    return absl::OkStatus();
  }

  absl::Status CheckLayout(std::vector<TensorInfo>* tensors) const {
    std::sort(tensors->begin(), tensors->end(), [](const TensorInfo& a, const TensorInfo& b) {
      return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
    });
    const uint64_t data = 8 + header_bytes_;
    uint64_t end = data;
    for (const TensorInfo& tensor : *tensors) {
      if (tensor.begin != end) {
        return Wrong(
            tensor.name,
            absl::StrCat(tensor.begin < end ? "overlaps the tensor before it" : "leaves a hole before it",
                         ": expected begin ", end - data, ", found ", tensor.begin - data));
      }
      end = tensor.end;
    }
    if (end != file_bytes_) {
      return Wrong(absl::StrCat("expected ", end, " bytes (header and all tensors), found ", file_bytes_));
    }
    return absl::OkStatus();
  }

  const absl::Span<const std::byte> head_;
  const uint64_t file_bytes_;
  const std::string& file_;
  uint64_t header_bytes_ = 0, data_bytes_ = 0;
};

}  // namespace

std::string TensorInfo::ShapeText() const { return absl::StrCat("[", absl::StrJoin(shape, ", "), "]"); }

absl::StatusOr<SafetensorsHeader> ParseSafetensors(absl::Span<const std::byte> head, uint64_t file_bytes,
                                                   const std::string& file) {
  return Parser(head, file_bytes, file).Parse();
}

}  // namespace lombard
