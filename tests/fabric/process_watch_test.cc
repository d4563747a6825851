#include "fabric/process_watch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace lombard {
namespace {

// A child that waits to be killed, and its Self().
struct Child {
  Child() {
    int pipe_fds[2];
    EXPECT_EQ(pipe(pipe_fds), 0);
    pid = fork();
    if (pid == 0) {
      const std::string text = ProcessWatch::Self();
      if (write(pipe_fds[1], text.data(), text.size()) < 0) _exit(1);
      while (true) pause();
    }
    char buffer[256];
    self.assign(buffer, std::max<ssize_t>(0, read(pipe_fds[0], buffer, sizeof(buffer))));
    close(pipe_fds[0]);
    close(pipe_fds[1]);
  }
  ~Child() { End(); }
  void End() {
    if (pid <= 0) return;
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
    pid = -1;
  }
  pid_t pid;
  std::string self;
};

bool Readable(int fd, int milliseconds) {
  pollfd poll_fd{fd, POLLIN, 0};
  return poll(&poll_fd, 1, milliseconds) == 1;
}

// Why pidfds are not to be had here; empty when they are.
std::string WhyNoPidfds() {
#ifdef SYS_pidfd_open
  const int fd = static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0));
  if (fd < 0) return std::strerror(errno);
  close(fd);
  return "";
#else
  return "not in the system's headers";
#endif
}

TEST(ProcessWatch, TellsOnceThatAProcessHasEnded) {
  if (!WhyNoPidfds().empty()) GTEST_SKIP() << "no pidfds: " << WhyNoPidfds();
  ProcessWatch watch;
  Child one, two;
  ASSERT_TRUE(watch.Add(1, one.self));
  ASSERT_TRUE(watch.Add(2, two.self));
  EXPECT_FALSE(Readable(watch.fd(), 0));
  EXPECT_THAT(watch.Ended(), testing::IsEmpty());
  one.End();
  EXPECT_TRUE(Readable(watch.fd(), 100000));
  EXPECT_THAT(watch.Ended(), testing::ElementsAre(1));
  EXPECT_THAT(watch.Ended(), testing::IsEmpty());
  EXPECT_FALSE(Readable(watch.fd(), 0));
}

TEST(ProcessWatch, AProcessThatEndedBeforeOrWasReplacedIsReportedAtOnce) {
  if (!WhyNoPidfds().empty()) GTEST_SKIP() << "no pidfds: " << WhyNoPidfds();
  ProcessWatch watch;
  Child child;
  ASSERT_TRUE(watch.Add(1, child.self));
  std::vector<std::string> fields = absl::StrSplit(child.self, ' ');
  fields[3] += "1";  // another start time: the pid now belongs to somebody else
  EXPECT_TRUE(watch.Add(2, absl::StrJoin(fields, " ")));
  EXPECT_THAT(watch.Ended(), testing::ElementsAre(2));
  child.End();
  EXPECT_TRUE(watch.Add(3, child.self));
  EXPECT_THAT(watch.Ended(), testing::UnorderedElementsAre(1, 3));
}

TEST(ProcessWatch, WhatCannotBeSeenIsNotWatched) {
  ProcessWatch watch;
  EXPECT_FALSE(watch.Add(1, ProcessWatch::Self())) << "itself";
  EXPECT_FALSE(watch.Add(1, "another-boot pid:[1] 1 1"));
  EXPECT_FALSE(watch.Add(1, ""));
  EXPECT_FALSE(watch.Add(1, absl::StrCat(ProcessWatch::Self(), " more")));
  EXPECT_THAT(watch.Ended(), testing::IsEmpty());
}

}  // namespace
}  // namespace lombard
