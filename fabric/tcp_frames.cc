#include "fabric/tcp_frames.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "base/status.h"

namespace lombard {
namespace {

// Between two attempts to connect to a listener that is not there yet.
constexpr absl::Duration kRetryPause = absl::Milliseconds(20);
constexpr int kBacklog = 512;
constexpr size_t kLengthBytes = 4;

using AddressList = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

absl::StatusOr<AddressList> Resolve(const std::string& host, int port) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(host.c_str(), absl::StrCat(port).c_str(), &hints, &found);
  if (error != 0)
    return absl::UnavailableError(absl::StrCat("host '", host, "' is not known here: ", gai_strerror(error)));
  return AddressList(found, &freeaddrinfo);
}

absl::Status Unavailable(absl::string_view what, int error) {
  return absl::UnavailableError(absl::StrCat(what, ": ", strerror(error)));
}

// Waits until `fd` is ready for `events`.
absl::Status WaitFor(int fd, short events, absl::Time deadline) {
  while (true) {
    const absl::Duration left = std::clamp(deadline - absl::Now(), absl::ZeroDuration(), absl::Hours(1));
    pollfd poll_fd{fd, events, 0};
    const timespec timeout = absl::ToTimespec(left);
    const int ready = ppoll(&poll_fd, 1, &timeout, nullptr);
    if (ready > 0) return absl::OkStatus();
    if (ready < 0 && errno != EINTR) return Unavailable("waiting for a connection", errno);
    if (absl::Now() >= deadline) return absl::DeadlineExceededError("no answer in time");
  }
}

absl::StatusOr<TcpStream> ConnectOnce(const addrinfo& address, absl::Time deadline) {
  const int fd = socket(address.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return Unavailable("socket", errno);
  TcpStream stream(fd);
  if (connect(fd, address.ai_addr, address.ai_addrlen) != 0) {
    if (errno != EINPROGRESS) return Unavailable("connecting", errno);
    RETURN_IF_ERROR(WaitFor(fd, POLLOUT, deadline));
    int error = 0;
    socklen_t length = sizeof(error);
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
    if (error != 0) return Unavailable("connecting", error);
  }
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  return stream;
}

}  // namespace

TcpStream::~TcpStream() {
  if (fd_ >= 0) close(fd_);
}

TcpStream& TcpStream::operator=(TcpStream&& other) noexcept {
  std::swap(fd_, other.fd_);
  read_.swap(other.read_);
  return *this;
}

absl::StatusOr<TcpStream> TcpStream::Connect(const std::string& host, int port, absl::Time deadline) {
  absl::Status last;
  do {
    if (auto addresses = Resolve(host, port); addresses.ok()) {
      for (const addrinfo* i = addresses->get(); i != nullptr; i = i->ai_next) {
        auto stream = ConnectOnce(*i, deadline);
        if (stream.ok()) return stream;
        last = stream.status();
      }
    } else {
      last = addresses.status();
    }
    absl::SleepFor(kRetryPause);
  } while (absl::Now() < deadline);
  return Annotate(last, absl::StrCat(host, ":", port));
}

absl::Status TcpStream::WriteFrame(absl::string_view bytes, absl::Time deadline) {
  const uint32_t length = static_cast<uint32_t>(bytes.size());
  std::string frame(reinterpret_cast<const char*>(&length), kLengthBytes);
  frame.append(bytes.data(), bytes.size());
  for (size_t done = 0; done < frame.size();) {
    const ssize_t sent = send(fd_, frame.data() + done, frame.size() - done, MSG_NOSIGNAL);
    if (sent >= 0) {
      done += sent;
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      RETURN_IF_ERROR(WaitFor(fd_, POLLOUT, deadline));
    } else if (errno != EINTR) {
      return Unavailable("the connection broke", errno);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> TcpStream::TryReadFrame(size_t bytes_max, std::string& frame) {
  while (true) {
    if (read_.size() >= kLengthBytes) {
      uint32_t length;
      memcpy(&length, read_.data(), kLengthBytes);
      if (length > bytes_max)
        return absl::InvalidArgumentError(absl::StrCat("a frame of ", length, " bytes, at most ", bytes_max));
      if (read_.size() - kLengthBytes >= length) {
        frame = read_.substr(kLengthBytes, length);
        read_.erase(0, kLengthBytes + length);
        return true;
      }
    }
    char buffer[16384];
    const ssize_t got = recv(fd_, buffer, sizeof(buffer), 0);
    if (got > 0) {
      read_.append(buffer, got);
    } else if (got == 0) {
      return absl::UnavailableError("the other side closed the connection");
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      return false;
    } else if (errno != EINTR) {
      return Unavailable("the connection broke", errno);
    }
  }
}

absl::StatusOr<std::string> TcpStream::ReadFrame(size_t bytes_max, absl::Time deadline) {
  std::string frame;
  while (true) {
    ASSIGN_OR_RETURN(const bool complete, TryReadFrame(bytes_max, frame));
    if (complete) return frame;
    RETURN_IF_ERROR(WaitFor(fd_, POLLIN, deadline));
  }
}

TcpListener::~TcpListener() {
  if (fd_ >= 0) close(fd_);
}

TcpListener& TcpListener::operator=(TcpListener&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

absl::StatusOr<TcpListener> TcpListener::Listen(const std::string& host, int port, bool or_any) {
  const auto listen_on = [port](const sockaddr* address, socklen_t length,
                                int family) -> absl::StatusOr<TcpListener> {
    TcpListener listener;
    listener.fd_ = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (listener.fd_ < 0) return Unavailable("socket", errno);
    const int on = 1;
    setsockopt(listener.fd_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(listener.fd_, address, length) != 0 || listen(listener.fd_, kBacklog) != 0) {
      return errno == EADDRNOTAVAIL ? absl::NotFoundError("not an address of this host")
                                    : Unavailable(absl::StrCat("port ", port), errno);
    }
    return listener;
  };
  absl::Status last = absl::NotFoundError("no address");
  if (auto addresses = Resolve(host, port); addresses.ok()) {
    for (const addrinfo* i = addresses->get(); i != nullptr; i = i->ai_next) {
      auto listener = listen_on(i->ai_addr, i->ai_addrlen, i->ai_family);
      if (listener.ok()) return listener;
      last = listener.status();
    }
  }
  if (!absl::IsNotFound(last) || !or_any) return last;
  sockaddr_in any{};
  any.sin_family = AF_INET;
  any.sin_port = htons(static_cast<uint16_t>(port));
  return listen_on(reinterpret_cast<const sockaddr*>(&any), sizeof(any), AF_INET);
}

bool TcpListener::loopback() const {
  sockaddr_storage address{};
  socklen_t length = sizeof(address);
  if (getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &length) != 0) return false;
  if (address.ss_family == AF_INET)
    return ntohl(reinterpret_cast<const sockaddr_in&>(address).sin_addr.s_addr) >> 24 == 127;
  return address.ss_family == AF_INET6 &&
         IN6_IS_ADDR_LOOPBACK(&reinterpret_cast<const sockaddr_in6&>(address).sin6_addr);
}

absl::StatusOr<TcpStream> TcpListener::Accept() {
  const int fd = accept4(fd_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd < 0) return Unavailable("accept", errno);
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  return TcpStream(fd);
}

absl::StatusOr<std::pair<std::string, int>> ParseHostPort(absl::string_view text) {
  const size_t colon = text.rfind(':');
  int port = 0;
  absl::string_view host = text.substr(0, colon);
  if (absl::ConsumePrefix(&host, "[") != absl::ConsumeSuffix(&host, "]")) host = "";
  if (colon == absl::string_view::npos || host.empty() || !absl::SimpleAtoi(text.substr(colon + 1), &port) ||
      port < 1 || port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", text, "' is not HOST:PORT with a port from 1 to 65535"));
  }
  return std::pair(std::string(host), port);
}

}  // namespace lombard
