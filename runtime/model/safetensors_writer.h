// Writes one safetensors file front to back, so that a checkpoint larger than memory can be made.
//
//   ASSIGN_OR_RETURN(auto writer, SafetensorsWriter::Create(path, {{"a", DType::kF32, {2, 3}}}));
//   RETURN_IF_ERROR(writer->Append(bytes_of_a));     // in pieces of any size, tensor after tensor
//   RETURN_IF_ERROR(writer->Finish());               // only now does `path` exist
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/dtype.h"

namespace lombard {

struct TensorSpec {
  std::string name;
  DType dtype;
  std::vector<int64_t> shape;
  int64_t bytes() const;
};

// Not thread-safe. Errors of the disk (full, not writable) carry path and cause (kResourceExhausted: full);
// the unfinished file, named `path` + ".part", is removed when the writer goes.
class SafetensorsWriter {
 public:
  static absl::StatusOr<std::unique_ptr<SafetensorsWriter>> Create(
      const std::string& path, const std::vector<TensorSpec>& tensors,
      const absl::btree_map<std::string, std::string>& metadata = {{"format", "pt"}});
  ~SafetensorsWriter();

  absl::Status Append(absl::Span<const std::byte> bytes);
  // REQUIRES: exactly the bytes of all tensors were appended.
  absl::Status Finish();

 private:
  SafetensorsWriter(std::string path, int fd, uint64_t bytes_left)
      : path_(std::move(path)), fd_(fd), bytes_left_(bytes_left) {}
  absl::Status WriteAll(const void* data, uint64_t bytes);

  const std::string path_;
  int fd_;
  uint64_t bytes_left_;
};

// A small file, complete or not there at all: written beside `path` and renamed.
absl::Status WriteSmallFile(const std::string& path, const std::string& text);

}  // namespace lombard
