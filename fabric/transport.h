// Moves messages between the workers of a job. Backends: loopback (one process), sim (tests, faults), ucx.
//
// Threads: Send, Wake and counters may be called from any thread and never block on a peer. Poll belongs to
// one thread, the progress thread: it moves bytes (a sender may move those of a small message itself) and
// calls the handler; the handler must not compute or block. Close ends it.
//
// Delivery: messages between two workers arrive whole, once, in the order sent, whatever their channel. A
// message to a peer that was lost is refused with kUnavailable; messages accepted before the loss may or may
// not have arrived. A worker may send to itself. When the peer leaves in good order (Bye inside Close) or the
// connection to it is lost, OnPeerDown is called. A connection that broke while both processes live is made
// again, and a new process may come in the place of one that is gone: OnPeerUp is called then, and what was
// under way before is lost. Ranks whose place is empty are down from the start, without a word.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/device/device_slots.h"

namespace lombard {

// What a message carries; the counters are kept by channel. Also tells the receiver which queue it belongs
// to.
enum class Channel : uint8_t {
  kControl,  // protobuf of fabric/messages/control.proto
  kQuery,    // query rows to a creditor
  kState,    // attention states back
  kKv,       // KV blocks
};
constexpr int kChannelCount = 4;

// A header (framing: who, what, which layer) and a payload (the bytes the formulas speak of). Both are owned
// by the message; the transport frees them when the bytes have left or arrived. A payload is at most
// kMessagePayloadBytesMax.
struct Message {
  Channel channel = Channel::kControl;
  std::string header;   // at most kMessageHeaderBytesMax
  std::string payload;  // written and read as raw bytes; data() is aligned to 16 bytes when not empty
                        // (std::string from operator new)
  // Instead of `payload`, in a GPU's memory (Transport::device_payload_max). The header is then at most
  // kDevicePayloadHeaderBytesMax.
  DeviceBytes device_payload;
};
inline size_t PayloadBytes(const Message& message) {
  return message.payload.size() + message.device_payload.bytes;
}
constexpr size_t kMessageHeaderBytesMax = 1 << 20;
constexpr size_t kDevicePayloadHeaderBytesMax = 256;
constexpr size_t kMessagePayloadBytesMax = 256u << 20;
// What may wait at the sender for one peer, so that a peer that stopped reading costs a bounded amount of
// memory.
constexpr uint64_t kSendQueueBytesMax = uint64_t{1} << 30;

// Bytes this worker has sent to others (not to itself) since the start.
struct TrafficCounters {
  std::array<uint64_t, kChannelCount> payload_bytes{};  // PayloadBytes
  uint64_t framing_bytes = 0;  // Message::header and the transport's own chunk headers
  uint64_t messages = 0;
};

class TransportHandler {
 public:
  virtual ~TransportHandler() = default;
  virtual void OnMessage(int from, Message message) = 0;
  // `why`: OK when the peer said goodbye; kNotFound when its process has ended; kUnavailable when the
  // connection is broken and its process may live.
  virtual void OnPeerDown(int peer, const absl::Status& why) = 0;
  virtual void OnPeerUp(int /*peer*/) {}
};

class Transport {
 public:
  virtual ~Transport() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;              // places; not all need be taken
  virtual std::string Describe() const = 0;  // for the log: backend, profile, interfaces

  // kUnavailable: the peer is gone. kInvalidArgument: too large, no such peer. kFailedPrecondition: closed.
  // kResourceExhausted: kSendQueueBytesMax already wait for this peer. A refused message was not sent and is
  // not counted.
  virtual absl::Status Send(int to, Message message) = 0;

  // GPUDirect: payloads that leave a GPU's memory, or come to it, without passing through the host's. OK: from
  // now on device_payload_max may be more than 0, and device payloads that come lie in `slots` while one is
  // free, else in `payload`. The slots live as long as the transport. kFailedPrecondition: it cannot, and why.
  // `insist`: also where no driver is seen that lets network devices reach a GPU's memory. Once; any thread.
  virtual absl::Status UseDeviceSlots(std::shared_ptr<DeviceSlots> /*slots*/, bool /*insist*/) {
    return absl::FailedPreconditionError("this transport moves host memory only");
  }
  // The largest device_payload that Send takes for this peer now; 0: none. Any thread.
  virtual size_t device_payload_max(int /*to*/) const { return 0; }
  // Progress thread only. Returns after something was done, Wake was called, or `wait` has passed; calls
  // `handler` from inside.
  virtual void Poll(TransportHandler& handler, absl::Duration wait) = 0;
  virtual void Wake() = 0;
  virtual TrafficCounters counters() const = 0;
  // Progress thread only: sends what is queued and a goodbye to everyone, waiting at most `deadline` in all.
  // Bounded, never hangs.
  virtual void Close(absl::Duration deadline) = 0;
};

}  // namespace lombard
