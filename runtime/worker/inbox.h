// A queue of control messages for one thread.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "fabric/messages/control.pb.h"

namespace lombard {

// Put and Notify from any thread; Take from the owner.
class Inbox {
 public:
  struct Item {
    int from;
    std::optional<messages::ControlMessage> message;  // none: the connection to `from` is gone
  };

  void Put(int from, std::optional<messages::ControlMessage> message) {
    {
      std::lock_guard lock(mutex_);
      items_.push_back({from, std::move(message)});
    }
    changed_.notify_one();
  }
  // Wakes the owner without a message.
  void Notify() {
    {
      std::lock_guard lock(mutex_);
      notified_ = true;
    }
    changed_.notify_one();
  }
  // Everything that has come; waits up to `wait` for a message or a Notify.
  std::vector<Item> Take(absl::Duration wait) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, absl::ToChronoMicroseconds(wait),
                      [this] { return notified_ || !items_.empty(); });
    notified_ = false;
    std::vector<Item> taken(std::make_move_iterator(items_.begin()), std::make_move_iterator(items_.end()));
    items_.clear();
    return taken;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Item> items_;
  bool notified_ = false;
};

}  // namespace lombard
