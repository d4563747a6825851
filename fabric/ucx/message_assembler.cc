#include "fabric/ucx/message_assembler.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status.h"

namespace lombard {

absl::StatusOr<ChunkHeader> ReadChunkHeader(absl::string_view bytes) {
  if (bytes.size() != kChunkHeaderBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("chunk header of ", bytes.size(), " bytes, not ", kChunkHeaderBytes));
  }
  ChunkHeader header;
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (static_cast<uint8_t>(header.kind) >= kChunkKindCount) {
    return absl::InvalidArgumentError(
        absl::StrCat("chunk kind ", static_cast<int>(header.kind), " is unknown"));
  }
  if (static_cast<uint8_t>(header.channel) >= kChannelCount) {
    return absl::InvalidArgumentError(
        absl::StrCat("channel ", static_cast<int>(header.channel), " is unknown"));
  }
  return header;
}

absl::Status MessageAssembler::Add(const ChunkHeader& header, absl::string_view bytes, Sink sink) {
  CHECK(IsNumbered(header.kind));
  if (header.number < next_) {
    return absl::DataLossError(absl::StrCat("chunk ", header.number, " came again; ", next_, " is next"));
  }
  if (header.number > next_) {
    early_bytes_ += bytes.size() + kChunkHeaderBytes;
    if (early_bytes_ > early_bytes_max_) {
      return absl::DataLossError(
          absl::StrCat(early_bytes_, " bytes wait for chunk ", next_, ", at most ", early_bytes_max_));
    }
    const bool is_new = early_.emplace(header.number, Early{header, std::string(bytes)}).second;
    return is_new ? absl::OkStatus()
                  : absl::DataLossError(absl::StrCat("chunk ", header.number, " came again, early"));
  }
  RETURN_IF_ERROR(Take(header, bytes, sink));
  for (auto it = early_.begin(); it != early_.end() && it->first == next_; it = early_.erase(it)) {
    early_bytes_ -= it->second.bytes.size() + kChunkHeaderBytes;
    RETURN_IF_ERROR(Take(it->second.header, it->second.bytes, sink));
  }
  return absl::OkStatus();
}

absl::Status MessageAssembler::Take(const ChunkHeader& header, absl::string_view bytes, Sink sink) {
  ++next_;
  read_bytes_ += bytes.size() + kChunkHeaderBytes;
  if (ended_) return absl::DataLossError(absl::StrCat("chunk ", header.number, " after the goodbye"));
  if (partial_ != (header.kind == ChunkKind::kMore)) {
    return absl::DataLossError(absl::StrCat(
        "chunk ", header.number, partial_ ? " starts a message inside another" : " continues no message"));
  }
  if (header.kind == ChunkKind::kGoodbye) {
    ended_ = true;
    sink(std::nullopt);
    return absl::OkStatus();
  }
  if (header.kind == ChunkKind::kFirst) {
    if (header.header_bytes > kMessageHeaderBytesMax || header.payload_bytes > kMessagePayloadBytesMax) {
      return absl::DataLossError(absl::StrCat(
          "message with a header of ", header.header_bytes, " bytes (at most ", kMessageHeaderBytesMax,
          ") and a payload of ", header.payload_bytes, " (at most ", kMessagePayloadBytesMax, ")"));
    }
    header_bytes_ = header.header_bytes;
    payload_bytes_ = header.payload_bytes;
    message_ = Message{header.channel, {}, {}};
    message_.header.reserve(header_bytes_);
    // At least 16 bytes, so that the payload lies on the heap, aligned.
    if (payload_bytes_ > 0) message_.payload.reserve(std::max<size_t>(payload_bytes_, 16));
    partial_ = true;
  }
  const size_t to_header = std::min(bytes.size(), header_bytes_ - message_.header.size());
  const absl::string_view to_payload = bytes.substr(to_header);
  if (to_payload.size() > payload_bytes_ - message_.payload.size()) {
    return absl::DataLossError(absl::StrCat("chunk ", header.number, " has ",
                                            to_payload.size() - (payload_bytes_ - message_.payload.size()),
                                            " bytes more than its message"));
  }
  message_.header.append(bytes.data(), to_header);
  message_.payload.append(to_payload.data(), to_payload.size());
  if (message_.header.size() + message_.payload.size() == header_bytes_ + payload_bytes_) {
    partial_ = false;
    sink(std::move(message_));
  }
  return absl::OkStatus();
}

}  // namespace lombard
