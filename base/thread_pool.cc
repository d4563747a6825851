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
    CHECK(body_ == nullptr) << "ThreadPool::Run from two threads";
    body_ = &body;
    count_ = count;
    next_.store(0);
    generation_.fetch_add(1);
  }
  wake_.notify_all();
  for (int i; (i = next_.fetch_add(1)) < count;) body(i);
  // A thread that has not come by now has nothing to do and is not waited for: on a busy machine it may take
  // long to be scheduled.
  std::unique_lock lock(mutex_);
  body_ = nullptr;
  for (int yields = 0; active_ != 0 && yields < kYieldsBeforeBlocking; ++yields) {
    lock.unlock();
    sched_yield();
    lock.lock();
  }
  done_.wait(lock, [this] { return active_ == 0; });
}

void ThreadPool::Loop() {
  uint64_t seen = 0;
  for (;;) {
    for (int yields = 0;
         generation_.load(std::memory_order_acquire) == seen && yields < kYieldsBeforeBlocking; ++yields) {
      sched_yield();
    }
    std::unique_lock lock(mutex_);
    wake_.wait(lock, [&] { return generation_.load() != seen; });
    if (stop_) return;
    seen = generation_.load();
    if (body_ == nullptr) continue;  // too late
    const absl::FunctionRef<void(int)>* body = body_;
    const int count = count_;
    ++active_;
    lock.unlock();
    for (int i; (i = next_.fetch_add(1)) < count;) (*body)(i);
    lock.lock();
    if (--active_ == 0) done_.notify_one();
  }
}

}  // namespace lombard
