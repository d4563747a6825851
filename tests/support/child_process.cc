#include "tests/support/child_process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "absl/time/clock.h"
#include "base/check.h"

namespace lombard {

ChildProcess::ChildProcess(const std::vector<std::string>& argv, std::string log) : log_(std::move(log)) {
  std::vector<char*> words;
  for (const std::string& word : argv) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  const int file = open(log_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  CHECK_GE(file, 0) << log_;
  pid_ = fork();
  CHECK_GE(pid_, 0);
  if (pid_ == 0) {
    dup2(file, STDOUT_FILENO);
    dup2(file, STDERR_FILENO);
    execvp(words[0], words.data());
    _exit(127);
  }
  close(file);
}

ChildProcess::~ChildProcess() {
  Signal(SIGKILL);
  Signal(SIGCONT);
  Wait(absl::InfiniteDuration());
}

void ChildProcess::Signal(int signal) {
  if (!Wait(absl::ZeroDuration()).has_value()) kill(pid_, signal);
}

std::optional<int> ChildProcess::Wait(absl::Duration wait) {
  for (const absl::Time end = absl::Now() + wait; !code_.has_value();
       absl::SleepFor(absl::Milliseconds(10))) {
    int status = 0;
    if (waitpid(pid_, &status, WNOHANG) == pid_)
      code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    if (code_.has_value() || absl::Now() >= end) break;
  }
  return code_;
}

}  // namespace lombard
