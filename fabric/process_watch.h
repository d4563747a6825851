// Notices at once when another process of this host ends, however it ends. UCX looks at the peers of shared
// memory every 200 ms, and 1.13 may miss for good one that dies within its first moments.
//
//   ProcessWatch watch;                       // exchange ProcessWatch::Self() among the ranks
//   watch.Add(rank, self_of_rank);
//   poll watch.fd(), then watch.Ended()
//
// One thread. Linux pidfds; where they are missing, nothing is ever watched.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace lombard {

class ProcessWatch {
 public:
  ProcessWatch();
  ~ProcessWatch();
  ProcessWatch(const ProcessWatch&) = delete;
  ProcessWatch& operator=(const ProcessWatch&) = delete;

  // Names this process: boot, pid namespace, pid and start time, in one line without spaces at its ends.
  static std::string Self();

  // In the place of what had the id before. False: not to be seen from here, as it runs on another host or in
  // another pid namespace, is this process itself, or cannot be watched.
  bool Add(int id, absl::string_view self_of_other);
  void Remove(int id);
  bool Watches(int id) const { return pidfds_.contains(id); }
  // Readable when Ended() has something to say; -1 when nothing can be watched.
  int fd() const { return epoll_fd_; }
  // The ids of processes that have ended since the last call.
  std::vector<int> Ended();

 private:
  int epoll_fd_ = -1;
  std::map<int, int> pidfds_;  // by id
  std::vector<int> found_dead_;
};

}  // namespace lombard
