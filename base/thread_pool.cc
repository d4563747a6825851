#include "base/thread_pool.h"

#include <sched.h>

#include "base/check.h"

namespace lombard {
namespace {
// A guess: about the time between two parallel loops of a small model's layer. Yields, not spins.
constexpr int kYieldsBeforeBlocking = 64;
}  // namespace

ThreadPool::ThreadPool(int threads) {
  CHECK_GE(threads, 1);
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { Loop(); });
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
    generation_.fetch_add(1);
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::Run(int count, absl::FunctionRef<void(int)> body) {
  if (count <= 0) return;
  if (workers_.empty() || count == 1) {
    for (int i = 0; i < count; ++i) body(i);
    return;
  }
  {
    std::lock_guard lock(mutex_);
    CHECK(!running_) << "ThreadPool::Run from two threads";
    running_ = true;
    body_ = &body;
    count_ = count;
    next_.store(0);
    busy_.store(static_cast<int>(workers_.size()));
    generation_.fetch_add(1);
  }
  wake_.notify_all();
  for (int i; (i = next_.fetch_add(1)) < count;) body(i);
  for (int yields = 0; busy_.load(std::memory_order_acquire) != 0 && yields < kYieldsBeforeBlocking; ++yields)
    sched_yield();
  std::unique_lock lock(mutex_);
  done_.wait(lock, [this] { return busy_.load(std::memory_order_acquire) == 0; });
  running_ = false;
}

void ThreadPool::Loop() {
  uint64_t seen = 0;
  for (;;) {
    for (int yields = 0;
         generation_.load(std::memory_order_acquire) == seen && yields < kYieldsBeforeBlocking; ++yields) {
      sched_yield();
    }
    const absl::FunctionRef<void(int)>* body;
    int count;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return generation_.load() != seen; });
      if (stop_) return;
      seen = generation_.load();
      body = body_;
      count = count_;
    }
    for (int i; (i = next_.fetch_add(1)) < count;) (*body)(i);
    if (busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
      std::lock_guard lock(mutex_);
      done_.notify_one();
    }
  }
}

}  // namespace lombard
