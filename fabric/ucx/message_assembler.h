// The receiving half of fabric/ucx/chunk.h for one peer: numbered chunks in, messages out in the order sent.
// What comes from the wire is input: whatever the bytes are, the answer is a message or a Status, and memory
// stays bounded by the message limits plus `early_bytes_max`. Not thread-safe.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "absl/functional/function_ref.h"
#include "fabric/ucx/chunk.h"

namespace lombard {

class MessageAssembler {
 public:
  // `early_bytes_max`: charged bytes of chunks that may wait for an earlier one. A peer that keeps its window
  // never needs more.
  explicit MessageAssembler(uint64_t early_bytes_max) : early_bytes_max_(early_bytes_max) {}

  // Called with each message that became whole, in order; nullopt is the goodbye.
  using Sink = absl::FunctionRef<void(std::optional<Message>)>;

  // REQUIRES: IsNumbered(header.kind). kDataLoss: the stream makes no sense (then the peer is to be dropped;
  // nothing more may be added). Not of a kWhole:
  absl::Status Add(const ChunkHeader& header, absl::string_view bytes, Sink sink);
  // A kWhole, which came as `message`.
  absl::Status AddWhole(const ChunkHeader& header, Message message, Sink sink);

  // Charged bytes of the chunks taken in order so far: what a credit reports.
  uint64_t read_bytes() const { return read_bytes_; }

 private:
  struct Early {
    ChunkHeader header;
    std::string bytes;
    Message whole;
  };
  absl::Status AddChunk(const ChunkHeader& header, absl::string_view bytes, Message* whole, Sink sink);
  absl::Status Take(const ChunkHeader& header, absl::string_view bytes, Message* whole, Sink sink);

  uint64_t early_bytes_max_;
  uint64_t next_ = 0;
  uint64_t read_bytes_ = 0, early_bytes_ = 0;
  std::map<uint64_t, Early> early_;
  // The message being put together, when `partial_`. Appended to, so that no byte is written twice.
  bool partial_ = false, ended_ = false;
  Message message_;
  size_t header_bytes_ = 0, payload_bytes_ = 0;
};

}  // namespace lombard
