#include "runtime/generate/output_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <nlohmann/json.hpp>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/file.h"
#include "base/status.h"

namespace lombard {
namespace {

using nlohmann::json;

// The id of a line that ResultLine may have written, as JSON text; empty when it is none.
std::string IdOfLine(absl::string_view line) {
  const json object = json::parse(line.begin(), line.end(), nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) return "";
  const auto id = object.find("id");
  if (id == object.end() || !(id->is_string() || id->is_number())) return "";
  return id->dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace

OutputFile::OutputFile(std::string path, int fd, absl::Span<const GenerateRequest> requests)
    : path_(std::move(path)), fd_(fd), done_(requests.size(), false) {
  for (const GenerateRequest& request : requests) ids_.push_back(request.id_json);
}

OutputFile::~OutputFile() {
  if (fd_ >= 0) close(fd_);
}

absl::StatusOr<std::unique_ptr<OutputFile>> OutputFile::Create(const std::string& path, bool resume,
                                                               absl::Span<const GenerateRequest> requests) {
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | (resume ? 0 : O_TRUNC), 0644);
  if (fd < 0) return ErrnoStatus(errno, "cannot open the output", path);
  std::unique_ptr<OutputFile> file(new OutputFile(path, fd, requests));
  if (resume) RETURN_IF_ERROR(file->KeepWrittenLines(requests));
  return file;
}

absl::Status OutputFile::KeepWrittenLines(absl::Span<const GenerateRequest> requests) {
  struct stat info;
  if (fstat(fd_, &info) != 0) return ErrnoStatus(errno, "cannot look at the output", path_);
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot resume into '", path_, "': it is not a regular file"));
  }
  ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(path_));
  absl::flat_hash_map<std::string, int> written;
  size_t good_end = 0;
  for (size_t line = 1, begin = 0, end; begin < text.size(); ++line, begin = end + 1) {
    end = text.find('\n', begin);
    if (end == text.npos) break;  // half a line
    const std::string id = IdOfLine(absl::string_view(text).substr(begin, end - begin));
    if (id.empty()) {
      if (end + 1 == text.size()) break;  // a last line that a crash spoilt
      return absl::InvalidArgumentError(
          absl::StrCat("cannot resume: ", path_, ":", line, " is not a line of an earlier output; ",
                       "give another --output, or leave out --resume to start anew"));
    }
    ++written[id];
    good_end = end + 1;
  }
  if (ftruncate(fd_, static_cast<off_t>(good_end)) != 0)
    return ErrnoStatus(errno, "cannot cut the output", path_);
  if (lseek(fd_, 0, SEEK_END) < 0) return ErrnoStatus(errno, "cannot seek in the output", path_);
  for (size_t i = 0; i < requests.size(); ++i) {
    const auto at = written.find(ids_[i]);
    if (at == written.end() || at->second == 0) continue;
    --at->second;  // of lines with the same id, one was its answer and the others were errors
    done_[i] = true;
  }
  while (next_ < done_.size() && done_[next_]) ++next_;
  return absl::OkStatus();
}

size_t OutputFile::done_count() const { return std::count(done_.begin(), done_.end(), true); }

absl::Status OutputFile::Put(size_t index, const GenerateResult& result) {
  RETURN_IF_ERROR(status_);
  CHECK(index >= next_ && index < done_.size() && !done_[index]) << index;
  const bool is_new = ready_.emplace(index, absl::StrCat(ResultLine(ids_[index], result), "\n")).second;
  CHECK(is_new) << index;
  std::string lines;
  while (next_ < done_.size()) {
    if (!done_[next_]) {
      const auto first = ready_.begin();
      if (first == ready_.end() || first->first != next_) break;
      lines += first->second;
      ready_.erase(first);
    }
    ++next_;
  }
  return status_ = WriteAll(lines);
}

absl::Status OutputFile::WriteAll(absl::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t put = write(fd_, bytes.data(), bytes.size());
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) {
      const int error = errno;
      return Annotate(ErrnoStatus(error, "cannot write to the output", path_),
                      "earlier lines are kept; make room and repeat the command with --resume");
    }
    bytes.remove_prefix(put);
  }
  return absl::OkStatus();
}

absl::Status OutputFile::Close() {
  const int fd = std::exchange(fd_, -1);
  if (fd >= 0 && close(fd) != 0 && status_.ok())
    status_ = ErrnoStatus(errno, "cannot close the output", path_);
  RETURN_IF_ERROR(status_);
  if (next_ < done_.size()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "'", path_, "' lacks the line of ", done_.size() - next_, " requests, from id ", ids_[next_], " on"));
  }
  return absl::OkStatus();
}

absl::Status CheckDifferentFiles(const std::string& input, const std::string& output) {
  struct stat a, b;
  if (stat(input.c_str(), &a) != 0 || stat(output.c_str(), &b) != 0) return absl::OkStatus();
  if (!S_ISREG(a.st_mode) || a.st_dev != b.st_dev || a.st_ino != b.st_ino) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "--output '", output, "' is the input file itself; writing would destroy it, give another name"));
}

}  // namespace lombard
