// The counters behind Transport::counters(): added to by one or many threads, read by any.
#pragma once

#include <atomic>

#include "fabric/transport.h"

namespace lombard {

class TrafficMeter {
 public:
  void AddPayload(Channel channel, uint64_t bytes) {
    payload_[static_cast<int>(channel)].fetch_add(bytes, std::memory_order_relaxed);
  }
  void AddFraming(uint64_t bytes) { framing_.fetch_add(bytes, std::memory_order_relaxed); }
  void AddMessage() { messages_.fetch_add(1, std::memory_order_relaxed); }

  TrafficCounters Read() const {
    TrafficCounters counters;
    for (int i = 0; i < kChannelCount; ++i)
      counters.payload_bytes[i] = payload_[i].load(std::memory_order_relaxed);
    counters.framing_bytes = framing_.load(std::memory_order_relaxed);
    counters.messages = messages_.load(std::memory_order_relaxed);
    return counters;
  }

 private:
  std::array<std::atomic<uint64_t>, kChannelCount> payload_{};
  std::atomic<uint64_t> framing_{0}, messages_{0};
};

}  // namespace lombard
