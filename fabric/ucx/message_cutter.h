// The sending half of fabric/ucx/chunk.h for one peer: messages in, numbered chunks out as far as the credit
// window allows. Chunks point into their message, which lives as long as one of them does. Not thread-safe,
// except that a chunk's message may be released on any thread.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "fabric/message_checks.h"
#include "fabric/ucx/chunk.h"

namespace lombard {

// A message on its way. `queued` holds its bytes from construction (by whoever counts it in) to destruction.
struct OutgoingMessage {
  OutgoingMessage(Message m, std::atomic<uint64_t>* queued_bytes)
      : message(std::move(m)), queued(queued_bytes) {}
  ~OutgoingMessage() { queued->fetch_sub(MessageBytes(message), std::memory_order_relaxed); }
  OutgoingMessage(const OutgoingMessage&) = delete;
  OutgoingMessage& operator=(const OutgoingMessage&) = delete;

  Message message;
  std::atomic<uint64_t>* queued;
};

class MessageCutter {
 public:
  struct Chunk {
    ChunkHeader header;  // job and from are the caller's to fill in
    // Of the message's header and payload; either may be empty. The payload's bytes of a kWhole are in the
    // device, not to be read here.
    absl::string_view parts[2];
    std::shared_ptr<OutgoingMessage> message;  // none for a goodbye
    bool last = false;
  };

  // REQUIRES: 0 < chunk_bytes, chunk_bytes + kChunkHeaderBytes <= window_bytes.
  MessageCutter(size_t chunk_bytes, uint64_t window_bytes);

  void Push(std::shared_ptr<OutgoingMessage> message) { waiting_.push_back(std::move(message)); }
  void PushGoodbye() { waiting_.push_back(nullptr); }
  // The next chunk; nullopt when nothing waits or the window is full.
  std::optional<Chunk> Next();
  // The peer has read `read_bytes` charged bytes since the start. kDataLoss: more than were sent.
  absl::Status Credit(uint64_t read_bytes);
  // Drops what waits; chunks already given out stay valid.
  void Clear();

  bool idle() const { return waiting_.empty(); }
  uint64_t in_flight_bytes() const { return sent_bytes_ - read_bytes_; }

 private:
  size_t chunk_bytes_;
  uint64_t window_bytes_;
  std::deque<std::shared_ptr<OutgoingMessage>> waiting_;  // null: the goodbye
  size_t offset_ = 0;                                     // into waiting_.front(), header and payload as one
  uint64_t next_ = 0, sent_bytes_ = 0, read_bytes_ = 0;
};

}  // namespace lombard
