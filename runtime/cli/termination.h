// SIGTERM as a request instead of an end.
//
//   Termination termination;                      // before threads are made
//   termination.set_handler([&] { worker->Drain(wait); });
//
// Until there is a handler, and after reset, the signal ends the process as it always did. The handler is
// called on a thread of its own, once for each signal.
#pragma once

#include <atomic>
#include <functional>
#include <mutex>
#include <thread>

namespace lombard {

class Termination {
 public:
  Termination();
  ~Termination();
  Termination(const Termination&) = delete;
  Termination& operator=(const Termination&) = delete;

  void set_handler(std::function<void()> handler);
  void reset() { set_handler({}); }  // returns when the handler does not run any more

 private:
  void Watch();

  std::mutex mutex_;
  std::function<void()> handler_;
  std::atomic<bool> stop_{false};
  std::thread watcher_;
};

}  // namespace lombard
