#include "base/file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"

namespace lombard {

absl::Status ErrnoStatus(int error, absl::string_view what, const std::string& path) {
  return absl::ErrnoToStatus(error, absl::StrCat(what, " '", path, "'"));
}

absl::StatusOr<std::string> ReadDescriptor(int fd, const std::string& name) {
  std::string text;
  for (size_t used = 0;;) {
    if (text.size() - used < (1 << 16)) text.resize(std::max<size_t>(1 << 16, 2 * text.size()));
    const ssize_t got = read(fd, text.data() + used, text.size() - used);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoStatus(errno, "cannot read", name);
    if (got == 0) return text.resize(used), text;
    used += got;
  }
}

absl::StatusOr<std::string> ReadWholeFile(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return ErrnoStatus(errno, "cannot open", path);
  auto text = ReadDescriptor(fd, path);
  close(fd);
  return text;
}

}  // namespace lombard
