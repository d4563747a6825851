#include "fabric/process_watch.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <fstream>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace lombard {
namespace {

int OpenPidfd(int pid) {
#ifdef SYS_pidfd_open
  return static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
#else
  errno = ENOSYS;
  return -1;
#endif
}

// In clock ticks since boot; empty when there is no such process. Tells a process from a later one of the
// same number.
std::string StartTime(int pid) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/stat"));
  std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const size_t after_name = text.rfind(')');  // the name may contain anything
  if (after_name == std::string::npos) return "";
  const std::vector<std::string> fields = absl::StrSplit(text.substr(after_name + 1), ' ', absl::SkipEmpty());
  constexpr size_t kStartTime = 22 - 3;  // field 22, counted from 1; the first one here is field 3
  return fields.size() > kStartTime ? fields[kStartTime] : "";
}

std::string BootAndNamespace() {
  std::string boot_id;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot_id;
  char name[64] = {};
  const ssize_t length = readlink("/proc/self/ns/pid", name, sizeof(name) - 1);
  return absl::StrCat(boot_id, " ", absl::string_view(name, length > 0 ? length : 0));
}

}  // namespace

ProcessWatch::ProcessWatch() : epoll_fd_(epoll_create1(EPOLL_CLOEXEC)) {}

ProcessWatch::~ProcessWatch() {
  for (const auto& [id, fd] : pidfds_) close(fd);
  if (epoll_fd_ >= 0) close(epoll_fd_);
}

std::string ProcessWatch::Self() {
  return absl::StrCat(BootAndNamespace(), " ", getpid(), " ", StartTime(getpid()));
}

void ProcessWatch::Remove(int id) {
  std::erase(found_dead_, id);
  const auto it = pidfds_.find(id);
  if (it == pidfds_.end()) return;
  close(it->second);  // which takes it out of the epoll set
  pidfds_.erase(it);
}

bool ProcessWatch::Add(int id, absl::string_view self_of_other) {
  Remove(id);
  const std::vector<std::string> fields = absl::StrSplit(self_of_other, ' ');
  int pid = 0;
  if (epoll_fd_ < 0 || fields.size() != 4 || !absl::SimpleAtoi(fields[2], &pid) || pid <= 0 ||
      pid == getpid() || fields[3].empty() || absl::StrCat(fields[0], " ", fields[1]) != BootAndNamespace()) {
    return false;
  }
  const int pidfd = OpenPidfd(pid);
  const bool gone = pidfd < 0 ? errno == ESRCH : StartTime(pid) != fields[3];
  if (gone) {
    if (pidfd >= 0) close(pidfd);
    found_dead_.push_back(id);
    return true;
  }
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u32 = static_cast<uint32_t>(id);
  if (pidfd < 0) return false;
  if (epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, pidfd, &event) != 0) {
    close(pidfd);
    return false;
  }
  pidfds_[id] = pidfd;
  return true;
}

std::vector<int> ProcessWatch::Ended() {
  std::vector<int> ended = std::exchange(found_dead_, {});
  epoll_event events[16];
  int count = 0;
  while (epoll_fd_ >= 0 && (count = epoll_wait(epoll_fd_, events, 16, 0)) > 0) {
    for (int i = 0; i < count; ++i) {
      const auto it = pidfds_.find(static_cast<int>(events[i].data.u32));
      if (it == pidfds_.end()) continue;
      ended.push_back(it->first);
      close(it->second);  // which takes it out of the epoll set
      pidfds_.erase(it);
    }
  }
  return ended;
}

}  // namespace lombard
