// A fixed set of threads that run one parallel loop at a time: fork, join, no queue, no futures.
//
//   ThreadPool pool(2);                       // the caller is one of the two
//   pool.Run(n, [&](int i) { work(i); });     // returns when every i in [0, n) is done
//
// One caller at a time (CHECKed). Between loops the threads wait a short while (they yield, so that
// oversubscribed ranks make progress), then block. Indices are handed out dynamically, in order; which thread
// runs which is not defined.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"

namespace lombard {

class ThreadPool {
 public:
  explicit ThreadPool(int threads);  // threads >= 1, counting the caller
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(i) for each i in [0, count), in any order and on any of the threads. Blocks until all are
  // done.
  void Run(int count, absl::FunctionRef<void(int)> body);

 private:
  void Loop();

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  const absl::FunctionRef<void(int)>* body_ = nullptr;  // of the loop under way; null between loops
  int count_ = 0;
  int active_ = 0;  // pool threads inside the loop
  bool stop_ = false;
  std::atomic<uint64_t> generation_{0};
  std::atomic<int> next_{0};
};

}  // namespace lombard
