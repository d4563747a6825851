// What every transport checks before it accepts a message, so that all backends refuse the same things with
// the same words.
#pragma once

#include "absl/status/status.h"
#include "fabric/transport.h"

namespace lombard {

// kInvalidArgument: no such peer, header or payload larger than the contract allows, or a device payload of
// more than `device_payload_max`.
absl::Status CheckSend(const Message& message, int to, int size, size_t device_payload_max = 0);

// kResourceExhausted when `queued` bytes wait for `to` and `message` would pass kSendQueueBytesMax. A message
// always fits an empty queue.
absl::Status CheckQueue(const Message& message, int to, uint64_t queued);

inline uint64_t MessageBytes(const Message& message) { return message.header.size() + PayloadBytes(message); }

// Receivers read payloads in place as floats, and a std::string below 16 bytes lives inside the object,
// unaligned.
inline void AlignPayload(std::string& payload) {
  constexpr size_t kHeapBytesMin = 16;
  if (!payload.empty() && payload.capacity() < kHeapBytesMin) payload.reserve(kHeapBytesMin);
}

absl::Status PeerGoneError(int to);
absl::Status ClosedError();

}  // namespace lombard
