// Time as an argument. State machines take `absl::Time now`; only threads and main functions own a Clock.
#pragma once

#include <ctime>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace lombard {

// Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual absl::Time Now() const = 0;
};

// Monotonic: CLOCK_MONOTONIC counted from the Unix epoch, so that wall-clock jumps move no deadline.
class MonotonicClock final : public Clock {
 public:
  absl::Time Now() const override {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return absl::UnixEpoch() + absl::Seconds(t.tv_sec) + absl::Nanoseconds(t.tv_nsec);
  }
};

// What the calling thread has computed, wherever and whenever the machine let it run.
inline double ThreadCpuSeconds() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

}  // namespace lombard
