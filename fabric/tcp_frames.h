// Bytes over TCP in frames, every call bounded by a deadline: what the rendezvous of ranks is made of. Not
// for the fabric. A frame is its length (4 bytes, little-endian) and that many bytes.
#pragma once

#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace lombard {

// A connected socket; owns it. Not thread-safe.
class TcpStream {
 public:
  TcpStream() = default;
  explicit TcpStream(int fd) : fd_(fd) {}
  ~TcpStream();
  TcpStream(TcpStream&& other) noexcept : fd_(std::exchange(other.fd_, -1)), read_(std::move(other.read_)) {}
  TcpStream& operator=(TcpStream&& other) noexcept;

  // Tries until `deadline`: the listener may not be there yet.
  static absl::StatusOr<TcpStream> Connect(const std::string& host, int port, absl::Time deadline);

  int fd() const { return fd_; }
  // kUnavailable: the other side is gone. kDeadlineExceeded. kInvalidArgument: a frame longer than bytes_max.
  absl::Status WriteFrame(absl::string_view bytes, absl::Time deadline);
  absl::StatusOr<std::string> ReadFrame(size_t bytes_max, absl::Time deadline);
  // What has come so far, without waiting: true when `frame` is complete.
  absl::StatusOr<bool> TryReadFrame(size_t bytes_max, std::string& frame);

 private:
  int fd_ = -1;
  std::string read_;  // came, not yet returned
};

class TcpListener {
 public:
  TcpListener() = default;
  ~TcpListener();
  TcpListener(TcpListener&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  TcpListener& operator=(TcpListener&& other) noexcept;

  // On the first address of ours that `host` means; on all of ours when it means none and `or_any`.
  // kUnavailable: the port is taken.
  static absl::StatusOr<TcpListener> Listen(const std::string& host, int port, bool or_any = true);
  bool loopback() const;  // other hosts cannot reach it

  int fd() const { return fd_; }
  absl::StatusOr<TcpStream> Accept();  // without waiting; kUnavailable when nobody is there

 private:
  int fd_ = -1;
};

// "host:port" or "[v6 address]:port". kInvalidArgument: not that.
absl::StatusOr<std::pair<std::string, int>> ParseHostPort(absl::string_view text);

}  // namespace lombard
