// What a thread does between finding nothing to do and blocking: a few turns of sched_yield, in which a
// partner that answers at once is met without the cost of a wake-up (2 to 10 us instead of 20 to 40). Ranks
// often exceed cores, so it never just spins; and when a yield does not come back soon, somebody computes on
// this core, and a blocked thread is scheduled sooner than a yielding one.
#pragma once

#include <sched.h>

#include <chrono>

namespace lombard {

class IdleYield {
 public:
  // True: yielded, look again. False: it is time to block.
  bool Again() {
    if (turns_ >= kTurns) return false;
    const auto start = std::chrono::steady_clock::now();
    if (start < crowded_until_) return false;
    ++turns_;
    sched_yield();
    if (std::chrono::steady_clock::now() - start > kLongYield) crowded_until_ = start + kCrowdedTime;
    return true;
  }
  void Reset() { turns_ = 0; }  // there was something to do

 private:
  static constexpr int kTurns = 64;
  // Between a partner's turn (some us) and a time slice of a computing thread (a ms or more).
  static constexpr std::chrono::microseconds kLongYield{200};
  // For so long the core is believed to be wanted by others: a slice lost in this time is little.
  static constexpr std::chrono::milliseconds kCrowdedTime{100};

  int turns_ = 0;
  std::chrono::steady_clock::time_point crowded_until_{};
};

}  // namespace lombard
