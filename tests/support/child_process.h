// A program that runs beside the test.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace lombard {

class ChildProcess {
 public:
  // Starts it; standard output and error go to the end of `log`. Aborts when it cannot be started.
  ChildProcess(const std::vector<std::string>& argv, std::string log);
  ~ChildProcess();  // kills it, if it still runs
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  pid_t pid() const { return pid_; }
  const std::string& log() const { return log_; }  // the file's name
  void Signal(int signal);                         // nothing happens when it has ended
  // Exit code, or 128 + signal; nullopt: it still runs after `wait`.
  std::optional<int> Wait(absl::Duration wait);

 private:
  std::string log_;
  pid_t pid_ = -1;
  std::optional<int> code_;
};

}  // namespace lombard
