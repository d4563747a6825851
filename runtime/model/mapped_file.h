// A file mapped read-only and shared, so that ranks on one host hold one copy of the weights in the page
// cache.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace lombard {

// Immutable and thread-safe. The file must not be cut short while it is mapped (the kernel answers with
// SIGBUS).
class MappedFile {
 public:
  // kNotFound when it cannot be opened; kInvalidArgument when it is no regular file.
  static absl::StatusOr<std::unique_ptr<MappedFile>> Open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  absl::Span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  MappedFile() = default;
  std::string path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace lombard
