#include "fabric/ucx/message_cutter.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace lombard {

MessageCutter::MessageCutter(size_t chunk_bytes, uint64_t window_bytes)
    : chunk_bytes_(chunk_bytes), window_bytes_(window_bytes) {
  CHECK_GT(chunk_bytes, 0u);
  CHECK_LE(chunk_bytes + kChunkHeaderBytes, window_bytes);
}

std::optional<MessageCutter::Chunk> MessageCutter::Next() {
  if (waiting_.empty()) return std::nullopt;
  Chunk chunk;
  chunk.message = waiting_.front();
  size_t bytes = 0, total = 0;
  if (chunk.message == nullptr) {
    chunk.header.kind = ChunkKind::kGoodbye;
  } else {
    const Message& message = chunk.message->message;
    const bool whole = static_cast<bool>(message.device_payload);
    total = MessageBytes(message);
    bytes = whole ? total : std::min(chunk_bytes_, total - offset_);
    chunk.header.kind = whole ? ChunkKind::kWhole : offset_ == 0 ? ChunkKind::kFirst : ChunkKind::kMore;
    chunk.header.channel = message.channel;
    chunk.header.header_bytes = static_cast<uint32_t>(message.header.size());
    chunk.header.payload_bytes = static_cast<uint32_t>(PayloadBytes(message));
    const size_t header_end = std::min(message.header.size(), offset_ + bytes);
    if (offset_ < header_end)
      chunk.parts[0] = absl::string_view(message.header).substr(offset_, header_end - offset_);
    const size_t from_payload = bytes - chunk.parts[0].size();
    if (from_payload > 0) {
      const absl::string_view payload =
          whole ? absl::string_view(reinterpret_cast<const char*>(message.device_payload.data.get()),
                                    message.device_payload.bytes)
                : absl::string_view(message.payload);
      const size_t start = offset_ + chunk.parts[0].size() - message.header.size();
      chunk.parts[1] = payload.substr(start, from_payload);
    }
  }
  const uint64_t charge = bytes + kChunkHeaderBytes;
  if (in_flight_bytes() + charge > window_bytes_) return std::nullopt;
  sent_bytes_ += charge;
  chunk.header.number = next_++;
  offset_ += bytes;
  chunk.last = offset_ == total;
  if (chunk.last) {
    waiting_.pop_front();
    offset_ = 0;
  }
  return chunk;
}

absl::Status MessageCutter::Credit(uint64_t read_bytes) {
  if (read_bytes > sent_bytes_) {
    return absl::DataLossError(
        absl::StrCat("a credit for ", read_bytes, " bytes, but only ", sent_bytes_, " were sent"));
  }
  read_bytes_ = std::max(read_bytes_, read_bytes);
  return absl::OkStatus();
}

void MessageCutter::Clear() {
  waiting_.clear();
  offset_ = 0;
}

}  // namespace lombard
