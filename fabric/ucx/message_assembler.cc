#include "fabric/ucx/message_assembler.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status.h"
#include "fabric/message_checks.h"

namespace lombard {
namespace {

uint64_t Charge(absl::string_view bytes, const Message* whole) {
  return kChunkHeaderBytes + (whole != nullptr ? MessageBytes(*whole) : bytes.size());
}

}  // namespace

absl::StatusOr<ChunkHeader> ReadChunkHeader(absl::string_view bytes) {
  ChunkHeader header;
  if (bytes.size() >= sizeof(header)) std::memcpy(&header, bytes.data(), sizeof(header));
  const size_t expected =
      kChunkHeaderBytes + (header.kind == ChunkKind::kWhole ? size_t{header.header_bytes} : 0);
  if (bytes.size() != expected) {
    return absl::InvalidArgumentError(
        absl::StrCat("chunk header of ", bytes.size(), " bytes, not ", expected));
  }
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
  CHECK(IsNumbered(header.kind) && header.kind != ChunkKind::kWhole);
  return AddChunk(header, bytes, nullptr, sink);
}

absl::Status MessageAssembler::AddWhole(const ChunkHeader& header, Message message, Sink sink) {
  CHECK(header.kind == ChunkKind::kWhole);
  return AddChunk(header, {}, &message, sink);
}

absl::Status MessageAssembler::AddChunk(const ChunkHeader& header, absl::string_view bytes, Message* whole,
                                        Sink sink) {
  if (header.number < next_) {
    return absl::DataLossError(absl::StrCat("chunk ", header.number, " came again; ", next_, " is next"));
  }
  if (header.number > next_) {
    early_bytes_ += Charge(bytes, whole);
    if (early_bytes_ > early_bytes_max_) {
      return absl::DataLossError(
          absl::StrCat(early_bytes_, " bytes wait for chunk ", next_, ", at most ", early_bytes_max_));
    }
    Early early{header, std::string(bytes), whole != nullptr ? std::move(*whole) : Message{}};
    const bool is_new = early_.emplace(header.number, std::move(early)).second;
    return is_new ? absl::OkStatus()
                  : absl::DataLossError(absl::StrCat("chunk ", header.number, " came again, early"));
  }
  RETURN_IF_ERROR(Take(header, bytes, whole, sink));
  for (auto it = early_.begin(); it != early_.end() && it->first == next_; it = early_.erase(it)) {
    Early& early = it->second;
    Message* const early_whole = early.header.kind == ChunkKind::kWhole ? &early.whole : nullptr;
    early_bytes_ -= Charge(early.bytes, early_whole);
    RETURN_IF_ERROR(Take(early.header, early.bytes, early_whole, sink));
  }
  return absl::OkStatus();
}

absl::Status MessageAssembler::Take(const ChunkHeader& header, absl::string_view bytes, Message* whole,
                                    Sink sink) {
  ++next_;
  read_bytes_ += Charge(bytes, whole);
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
  if (header.kind != ChunkKind::kMore &&
      (header.header_bytes > kMessageHeaderBytesMax || header.payload_bytes > kMessagePayloadBytesMax)) {
    return absl::DataLossError(absl::StrCat(
        "message with a header of ", header.header_bytes, " bytes (at most ", kMessageHeaderBytesMax,
        ") and a payload of ", header.payload_bytes, " (at most ", kMessagePayloadBytesMax, ")"));
  }
  if (whole != nullptr) {
    if (whole->header.size() != header.header_bytes || PayloadBytes(*whole) != header.payload_bytes) {
      return absl::DataLossError(absl::StrCat(
          "chunk ", header.number, " is a message of ", whole->header.size(), " + ", PayloadBytes(*whole),
          " bytes that says ", header.header_bytes, " + ", header.payload_bytes));
    }
    AlignPayload(whole->payload);
    sink(std::move(*whole));
    return absl::OkStatus();
  }
  if (header.kind == ChunkKind::kFirst) {
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
