// How a message crosses the wire under UCX: its header and payload, one after the other, cut into chunks.
// Each chunk is one active message: this ChunkHeader, then the bytes. Chunks of a pair of workers are
// numbered from 0 without gaps, whatever message they belong to; a goodbye is a numbered chunk too, so that
// it is read after everything sent before it. A payload in device memory is one chunk, by rendezvous, with
// the message's header behind this one: both ends move it as it lies.
//
//   offset  bytes
//   0       4     job            fingerprint of the job's addresses: a stray sender of another is not heard
//   4       4     from           rank of the sender
//   8       8     number         kFirst, kMore, kGoodbye, kWhole: of this chunk. kCredit: charged bytes read
//                                so far. kConnect: the sender's generation. Others: 0
//   16      4     header_bytes   kFirst, kWhole: of the whole message
//   20      4     payload_bytes  kFirst, kWhole: of the whole message
//   24      1     kind
//   25      1     channel        kFirst, kWhole
//   26      2     zero
//   28      4     connection     of the pair (fabric/ucx/link.h)
//   32            the message's header: kWhole
//
// Credits: a sender may have at most a window of charged bytes (data and kChunkHeaderBytes for each numbered
// chunk) that the reader has not reported as read. All numbers little-endian.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "fabric/transport.h"

namespace lombard {

enum class ChunkKind : uint8_t {
  kFirst,
  kMore,
  kGoodbye,
  kGoodbyeSeen,
  kCredit,
  kConnect,
  kConnected,
  kWhole
};
constexpr int kChunkKindCount = 8;

struct ChunkHeader {
  uint32_t job = 0;
  uint32_t from = 0;
  uint64_t number = 0;
  uint32_t header_bytes = 0;
  uint32_t payload_bytes = 0;
  ChunkKind kind = ChunkKind::kFirst;
  Channel channel = Channel::kControl;
  uint8_t zero[2] = {};
  uint32_t connection = 0;
};
constexpr size_t kChunkHeaderBytes = 32;
static_assert(sizeof(ChunkHeader) == kChunkHeaderBytes && std::endian::native == std::endian::little);

// Without what may be behind it. kInvalidArgument: not a chunk header.
absl::StatusOr<ChunkHeader> ReadChunkHeader(absl::string_view bytes);

inline bool IsNumbered(ChunkKind kind) {
  return kind == ChunkKind::kFirst || kind == ChunkKind::kMore || kind == ChunkKind::kGoodbye ||
         kind == ChunkKind::kWhole;
}

}  // namespace lombard
