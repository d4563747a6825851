#include "runtime/model/safetensors_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "absl/strings/str_join.h"
#include "base/check.h"
#include "base/file.h"
#include "base/status.h"
#include "runtime/model/json_text.h"

namespace lombard {
namespace {

constexpr uint64_t kAlignment = 64;  // data starts on a cache line; the format asks for 8

const char* StoredName(DType dtype) {
  return dtype == DType::kF32 ? "F32" : dtype == DType::kF16 ? "F16" : "BF16";
}

}  // namespace

int64_t TensorSpec::bytes() const {
  int64_t elements = 1;
  for (const int64_t dim : shape) elements *= dim;
  return elements * static_cast<int64_t>(DTypeBytes(dtype));
}

absl::StatusOr<std::unique_ptr<SafetensorsWriter>> SafetensorsWriter::Create(
    const std::string& path, const std::vector<TensorSpec>& tensors,
    const absl::btree_map<std::string, std::string>& metadata) {
  std::string header = "{";
  if (!metadata.empty()) {
    absl::StrAppend(&header, "\"__metadata__\":{",
                    absl::StrJoin(metadata, ",",
                                  [](std::string* out, const auto& entry) {
                                    absl::StrAppend(out, JsonQuoted(entry.first), ":",
                                                    JsonQuoted(entry.second));
                                  }),
                    "}");
  }
  uint64_t offset = 0;
  for (const TensorSpec& tensor : tensors) {
    const uint64_t end = offset + tensor.bytes();
    absl::StrAppend(&header, header.size() > 1 ? "," : "", JsonQuoted(tensor.name), ":{\"dtype\":\"",
                    StoredName(tensor.dtype), "\",\"shape\":[", absl::StrJoin(tensor.shape, ","),
                    "],\"data_offsets\":[", offset, ",", end, "]}");
    offset = end;
  }
  header += "}";
  while ((header.size() + 8) % kAlignment != 0) header += ' ';

  const int fd = open((path + ".part").c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return ErrnoStatus(errno, "cannot create", path);
  std::unique_ptr<SafetensorsWriter> writer(new SafetensorsWriter(path, fd, offset));
  unsigned char length[8];
  for (int i = 0; i < 8; ++i) length[i] = static_cast<unsigned char>(header.size() >> (8 * i));
  RETURN_IF_ERROR(writer->WriteAll(length, sizeof(length)));
  RETURN_IF_ERROR(writer->WriteAll(header.data(), header.size()));
  return writer;
}

SafetensorsWriter::~SafetensorsWriter() {
  if (fd_ < 0) return;
  close(fd_);
  unlink((path_ + ".part").c_str());
}

absl::Status SafetensorsWriter::WriteAll(const void* data, uint64_t bytes) {
  const char* next = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = write(fd_, next, bytes);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return ErrnoStatus(errno, "cannot write", path_);
    next += written;
    bytes -= written;
  }
  return absl::OkStatus();
}

absl::Status SafetensorsWriter::Append(absl::Span<const std::byte> bytes) {
  CHECK_LE(bytes.size(), bytes_left_) << path_;
  RETURN_IF_ERROR(WriteAll(bytes.data(), bytes.size()));
  bytes_left_ -= bytes.size();
  return absl::OkStatus();
}

absl::Status SafetensorsWriter::Finish() {
  CHECK_EQ(bytes_left_, 0u) << path_;
  const int closed = close(fd_);  // a full disk may show only here
  fd_ = -1;
  const std::string part = path_ + ".part";
  if (closed != 0 || std::rename(part.c_str(), path_.c_str()) != 0) {
    const absl::Status status = ErrnoStatus(errno, "cannot finish writing", path_);
    unlink(part.c_str());
    return status;
  }
  return absl::OkStatus();
}

absl::Status WriteSmallFile(const std::string& path, const std::string& text) {
  const std::string part = path + ".part";
  std::FILE* file = std::fopen(part.c_str(), "wb");
  if (file == nullptr) return ErrnoStatus(errno, "cannot create", path);
  const bool written = std::fwrite(text.data(), 1, text.size(), file) == text.size();
  const bool closed = std::fclose(file) == 0;
  if (!written || !closed || std::rename(part.c_str(), path.c_str()) != 0) {
    const absl::Status status = ErrnoStatus(errno, "cannot write", path);
    unlink(part.c_str());
    return status;
  }
  return absl::OkStatus();
}

}  // namespace lombard
