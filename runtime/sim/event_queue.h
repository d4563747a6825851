// Simulated time: what happens next, in order of (time, when it was asked for). One thread.
#pragma once

#include <cstdint>
#include <functional>
#include <queue>
#include <vector>

#include "absl/time/time.h"

namespace lombard {

class EventQueue {
 public:
  absl::Time now() const { return now_; }
  void At(absl::Time time, std::function<void()> run) {
    events_.push({std::max(time, now_), next_order_++, std::move(run)});
  }
  void After(absl::Duration delay, std::function<void()> run) { At(now_ + delay, std::move(run)); }
  // Runs everything up to `end`, which becomes the time, or until `stop` says so.
  void RunUntil(absl::Time end, const std::function<bool()>& stop) {
    while (!stop() && !events_.empty() && events_.top().time <= end) {
      // The queue hands out const references only; the event is popped at once.
      Event event = std::move(const_cast<Event&>(events_.top()));
      events_.pop();
      now_ = event.time;
      ++ran_;
      event.run();
    }
    if (!stop()) now_ = end;
  }
  uint64_t ran() const { return ran_; }

 private:
  struct Event {
    absl::Time time;
    uint64_t order;
    std::function<void()> run;
    bool operator<(const Event& other) const {
      return std::tie(other.time, other.order) < std::tie(time, order);
    }
  };
  absl::Time now_ = absl::UnixEpoch();
  uint64_t next_order_ = 0, ran_ = 0;
  std::priority_queue<Event> events_;
};

}  // namespace lombard
