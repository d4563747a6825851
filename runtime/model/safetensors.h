// The safetensors container: header parsing and its checks. No file is opened here.
//
//   8 bytes   little-endian length N of the header
//   N bytes   JSON: {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ...,
//   "__metadata__": {...}} the rest  data; offsets count from its first byte; tensors lie back to back,
//   row-major, without holes
//
// Format: https://huggingface.co/docs/safetensors. As in its reference reader, a hole, an overlap or bytes
// beyond the last tensor make the file invalid: they are how a broken download or a broken writer shows.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace lombard {

struct TensorInfo {
  std::string name;
  std::string dtype;            // as written: "F32", "BF16", "F8_E4M3", ...
  std::vector<int64_t> shape;   // [] for a scalar
  uint64_t begin = 0, end = 0;  // bytes of the file, not of its data part

  std::string ShapeText() const;  // "[2, 3]"
};

struct SafetensorsHeader {
  std::vector<TensorInfo> tensors;  // in the order of their bytes
  absl::flat_hash_map<std::string, std::string> metadata;
};

// `head` holds at least the start of the file: 8 + N bytes where the file has them. `file_bytes` is the size
// of all of it; `file` names it in messages. Touches no tensor data. kInvalidArgument, naming file, tensor,
// expected and found.
absl::StatusOr<SafetensorsHeader> ParseSafetensors(absl::Span<const std::byte> head, uint64_t file_bytes,
                                                   const std::string& file);

}  // namespace lombard
