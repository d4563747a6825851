// Any bytes as chunks from a peer: they become the messages that they spell in the order of their numbers,
// and the first chunk that makes no sense is refused. A credit is good as far as something was sent.
//
// Input: two bytes, how many charged bytes may wait for an earlier chunk; then records of a chunk header (a
// kWhole's with the message's), one byte length, and so many bytes.
#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "fabric/ucx/message_assembler.h"
#include "fabric/ucx/message_cutter.h"

namespace {

using namespace lombard;

struct Chunk {
  ChunkHeader header;
  std::string bytes;  // a kWhole's with the message's header
  uint64_t charge() const { return bytes.size() + kChunkHeaderBytes; }
};
using Chunks = std::map<uint64_t, Chunk>;  // by number

std::string Flat(Channel channel, absl::string_view header, absl::string_view payload) {
  return absl::StrCat(static_cast<int>(channel), " ", header.size(), " ", header, payload);
}

struct Spelled {
  std::vector<std::string> messages;
  bool goodbye = false;
  bool sense = true;   // false: a chunk makes none, and what comes before it is here
  uint64_t bytes = 0;  // charged
};

// What the chunks up to the first missing one spell.
Spelled Spell(const Chunks& chunks) {
  Spelled spelled;
  const ChunkHeader* first = nullptr;  // of the message that is not yet whole
  std::string text;
  uint64_t next = 0;
  for (const auto& [number, chunk] : chunks) {
    if (number != next++) break;
    spelled.bytes += chunk.charge();
    const ChunkHeader& header = chunk.header;
    spelled.sense = !spelled.goodbye && (first != nullptr) == (header.kind == ChunkKind::kMore);
    if (!spelled.sense) break;
    if (header.kind == ChunkKind::kGoodbye) {
      spelled.goodbye = true;
      continue;
    }
    if (first == nullptr) text.clear(), first = &header;
    text += chunk.bytes;
    const size_t expected = size_t{first->header_bytes} + first->payload_bytes;
    spelled.sense = first->header_bytes <= kMessageHeaderBytesMax &&
                    first->payload_bytes <= kMessagePayloadBytesMax &&
                    (header.kind == ChunkKind::kWhole ? text.size() == expected : text.size() <= expected);
    if (!spelled.sense) break;
    if (text.size() < size_t{first->header_bytes} + first->payload_bytes) continue;
    const absl::string_view whole = text;
    spelled.messages.push_back(
        Flat(first->channel, whole.substr(0, first->header_bytes), whole.substr(first->header_bytes)));
    first = nullptr;
  }
  return spelled;
}

uint64_t WaitingBytes(const Chunks& chunks, uint64_t next) {
  uint64_t bytes = 0;
  for (auto it = chunks.lower_bound(next); it != chunks.end(); ++it) bytes += it->second.charge();
  return bytes;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const uint64_t early_bytes_max = data[0] | data[1] << 8;
  absl::string_view input(reinterpret_cast<const char*>(data + 2), size - 2);

  std::atomic<uint64_t> queued{100};
  MessageCutter cutter(/*chunk_bytes=*/16, /*window_bytes=*/200);
  cutter.Push(std::make_shared<OutgoingMessage>(Message{Channel::kKv, "", std::string(100, 'x')}, &queued));
  while (cutter.Next().has_value()) continue;
  const uint64_t sent = cutter.in_flight_bytes();

  MessageAssembler assembler(early_bytes_max);
  Chunks chunks;
  uint64_t next = 0;
  std::vector<std::string> received;
  bool goodbye = false;
  while (input.size() > kChunkHeaderBytes) {
    ChunkHeader says;
    std::memcpy(&says, input.data(), kChunkHeaderBytes);
    const size_t behind = says.kind == ChunkKind::kWhole ? std::min<size_t>(says.header_bytes, 16) : 0;
    if (input.size() <= kChunkHeaderBytes + behind) break;
    const auto header = ReadChunkHeader(input.substr(0, kChunkHeaderBytes + behind));
    const absl::string_view text = input.substr(kChunkHeaderBytes, behind);
    input.remove_prefix(kChunkHeaderBytes + behind);
    const size_t length = static_cast<uint8_t>(input[0]);
    const absl::string_view bytes = input.substr(1, length);
    input.remove_prefix(1 + bytes.size());
    if (!header.ok()) continue;
    const bool whole = header->kind == ChunkKind::kWhole;
    if (header->kind == ChunkKind::kCredit) {
      const uint64_t before = cutter.in_flight_bytes();
      CHECK_EQ(cutter.Credit(header->number).ok(), header->number <= sent);
      CHECK_LE(cutter.in_flight_bytes(), before);
    }
    if (!IsNumbered(header->kind)) continue;

    const Chunk chunk{*header, absl::StrCat(text, bytes)};
    const bool fits =
        header->number <= next || WaitingBytes(chunks, next) + chunk.charge() <= early_bytes_max;
    const bool is_new = chunks.emplace(header->number, chunk).second;
    while (chunks.count(next) > 0) ++next;
    const auto sink = [&](std::optional<Message> message) {
      CHECK(!goodbye);
      goodbye = !message.has_value();
      if (goodbye) return;
      CHECK(message->payload.empty() || reinterpret_cast<uintptr_t>(message->payload.data()) % 16 == 0);
      received.push_back(Flat(message->channel, message->header, message->payload));
    };
    const absl::Status status =
        whole
            ? assembler.AddWhole(*header, {header->channel, std::string(text), std::string(bytes), {}}, sink)
            : assembler.Add(*header, bytes, sink);
    const Spelled spelled = Spell(chunks);
    CHECK_EQ(status.ok(), is_new && fits && spelled.sense) << status;
    CHECK(received == spelled.messages && goodbye == spelled.goodbye) << received.size() << " messages";
    if (!status.ok()) {
      CHECK(absl::IsDataLoss(status)) << status;
      break;  // nothing more may be added
    }
    CHECK_EQ(assembler.read_bytes(), spelled.bytes);
  }
  return 0;
}
