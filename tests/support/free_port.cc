#include "tests/support/free_port.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>

#include "base/check.h"

namespace lombard {

int FreePort() {
  // Below the kernel's own ports, where somebody's connection could take it before the caller listens there;
  // processes that run at the same time have their own sixteen.
  constexpr int kFirst = 20000, kCount = 8000, kEach = 16;
  static std::atomic<int> asked{0};
  for (int i = 0; i < kCount; ++i) {
    const int port = kFirst + (getpid() * kEach + asked++) % kCount;
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_ANY);
    const bool free = bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
    close(fd);
    if (free) return port;
  }
  CHECK(false) << "no free port from " << kFirst << " to " << kFirst + kCount - 1;
}

}  // namespace lombard
