// Cutter and assembler against each other: any sizes, any window, chunks in any order that a window allows.
// And against bytes that no cutter made: streams without sense, and the fuzz entry on its corpus.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "fabric/ucx/message_assembler.h"
#include "fabric/ucx/message_cutter.h"
#include "tests/fabric/transport_ladder.h"
#include "tests/support/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace lombard {
namespace {

using test::PatternBytes;

// As it looks after the wire.
struct Flying {
  ChunkHeader header;
  std::string bytes;
  Message whole = {};
};

Flying OnTheWire(const MessageCutter::Chunk& chunk) {
  if (chunk.header.kind == ChunkKind::kWhole) return {chunk.header, "", chunk.message->message};
  return {chunk.header, std::string(chunk.parts[0]) + std::string(chunk.parts[1])};
}

absl::Status AddTo(MessageAssembler& assembler, const Flying& chunk, MessageAssembler::Sink sink) {
  return chunk.header.kind == ChunkKind::kWhole ? assembler.AddWhole(chunk.header, chunk.whole, sink)
                                                : assembler.Add(chunk.header, chunk.bytes, sink);
}

DeviceBytes InDevice(const std::string& bytes) {
  const std::shared_ptr<std::byte[]> memory(new std::byte[bytes.size()]);
  std::memcpy(memory.get(), bytes.data(), bytes.size());
  return {std::shared_ptr<std::byte>(memory, memory.get()), bytes.size()};
}

std::string PayloadOf(const Message& message) {
  return message.payload + std::string(reinterpret_cast<const char*>(message.device_payload.data.get()),
                                       message.device_payload.bytes);
}

TEST(MessageChunks, EveryMessageArrivesWholeAndInOrderWhateverTheOrderOfItsChunks) {
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    const size_t chunk_bytes = 1 + random() % 300;
    const uint64_t window = chunk_bytes + kChunkHeaderBytes + random() % 4000;
    MessageCutter cutter(chunk_bytes, window);
    MessageAssembler assembler(window);
    std::atomic<uint64_t> queued{0};
    std::vector<std::pair<std::string, std::string>> sent, received;
    bool goodbye = false;
    for (int i = 0; i < 20; ++i) {
      sent.push_back({PatternBytes(random() % 3 * (random() % 400), random()),
                      PatternBytes(random() % 3 * (random() % 900), random())});
      const auto& [header, payload] = sent.back();
      queued += header.size() + payload.size();
      const bool whole = !payload.empty() && header.size() + payload.size() + kChunkHeaderBytes <= window &&
                         random() % 2 == 0;
      cutter.Push(std::make_shared<OutgoingMessage>(whole
                                                        ? Message{Channel::kKv, header, "", InDevice(payload)}
                                                        : Message{Channel::kKv, header, payload, {}},
                                                    &queued));
    }
    cutter.PushGoodbye();
    std::vector<Flying> flying;
    while (true) {
      while (auto chunk = cutter.Next()) flying.push_back(OnTheWire(*chunk));
      ASSERT_LE(cutter.in_flight_bytes(), window);
      if (flying.empty()) break;
      std::swap(flying[random() % flying.size()], flying.back());
      ASSERT_TRUE(AddTo(assembler, flying.back(), [&](std::optional<Message> message) {
                    ASSERT_FALSE(goodbye);
                    goodbye = !message.has_value();
                    if (!goodbye) received.push_back({message->header, PayloadOf(*message)});
                  }).ok());
      flying.pop_back();
      ASSERT_TRUE(cutter.Credit(assembler.read_bytes()).ok());
    }
    EXPECT_TRUE(goodbye);
    EXPECT_TRUE(received == sent);
    EXPECT_EQ(queued.load(), 0u) << "every message was freed";
  }
}

absl::Status AddAll(const std::vector<Flying>& chunks, uint64_t early_bytes_max = 1 << 20) {
  MessageAssembler assembler(early_bytes_max);
  for (const Flying& chunk : chunks) {
    if (const absl::Status status = AddTo(assembler, chunk, [](std::optional<Message>) {}); !status.ok())
      return status;
  }
  return absl::OkStatus();
}

Flying Chunk(uint64_t number, ChunkKind kind, uint32_t payload_bytes, std::string bytes) {
  ChunkHeader header;
  header.number = number;
  header.kind = kind;
  header.payload_bytes = payload_bytes;
  return {header, std::move(bytes)};
}

Flying Whole(uint64_t number, const std::string& header, const std::string& payload, uint32_t says_bytes) {
  Flying flying = Chunk(number, ChunkKind::kWhole, says_bytes, "");
  flying.header.header_bytes = static_cast<uint32_t>(header.size());
  flying.whole = {Channel::kKv, header, "", InDevice(payload)};
  return flying;
}

TEST(MessageChunks, AStreamThatMakesNoSenseIsAnError) {
  using K = ChunkKind;
  EXPECT_TRUE(
      AddAll({Chunk(0, K::kFirst, 4, "ab"), Chunk(1, K::kMore, 0, "cd"), Chunk(2, K::kGoodbye, 0, "")}).ok());
  const std::vector<std::pair<const char*, std::vector<Flying>>> cases = {
      {"came again; 1 is next", {Chunk(0, K::kFirst, 4, "ab"), Chunk(0, K::kFirst, 4, "ab")}},
      {"came again, early", {Chunk(3, K::kFirst, 4, "ab"), Chunk(3, K::kFirst, 4, "ab")}},
      {"continues no message", {Chunk(0, K::kMore, 0, "ab")}},
      {"inside another", {Chunk(0, K::kFirst, 4, "ab"), Chunk(1, K::kFirst, 4, "ab")}},
      {"inside another", {Chunk(0, K::kFirst, 4, "ab"), Chunk(1, K::kGoodbye, 0, "")}},
      {"more than its message", {Chunk(0, K::kFirst, 4, "abcde")}},
      {"payload of 268435457 (at most 268435456)", {Chunk(0, K::kFirst, kMessagePayloadBytesMax + 1, "a")}},
      {"inside another", {Chunk(0, K::kFirst, 4, "ab"), Whole(1, "h", "abcd", 4)}},
      {"came again, early", {Whole(3, "h", "abcd", 4), Whole(3, "h", "abcd", 4)}},
      {"message of 1 + 4 bytes that says 1 + 5", {Whole(0, "h", "abcd", 5)}},
      {"after the goodbye", {Chunk(0, K::kGoodbye, 0, ""), Whole(1, "h", "abcd", 4)}},
      {"after the goodbye", {Chunk(0, K::kGoodbye, 0, ""), Chunk(1, K::kFirst, 1, "a")}},
  };
  for (const auto& [words, chunks] : cases) {
    const absl::Status status = AddAll(chunks);
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << words;
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr(words));
  }
  EXPECT_EQ(AddAll({Chunk(1, K::kFirst, 100, std::string(100, 'x'))}, /*early_bytes_max=*/131).code(),
            absl::StatusCode::kDataLoss);
  EXPECT_TRUE(AddAll({Chunk(1, K::kFirst, 100, std::string(100, 'x'))}, /*early_bytes_max=*/132).ok());
}

TEST(MessageChunks, ACreditForMoreThanWasSentIsAnError) {
  MessageCutter cutter(100, 1000);
  EXPECT_EQ(cutter.Credit(1).code(), absl::StatusCode::kDataLoss);
  std::atomic<uint64_t> queued{8};
  cutter.Push(std::make_shared<OutgoingMessage>(Message{Channel::kKv, "head", "body"}, &queued));
  ASSERT_TRUE(cutter.Next().has_value());
  EXPECT_EQ(cutter.in_flight_bytes(), 8 + kChunkHeaderBytes);
  EXPECT_TRUE(cutter.Credit(8 + kChunkHeaderBytes).ok());
  EXPECT_TRUE(cutter.Credit(0).ok()) << "credits may overtake each other";
  EXPECT_EQ(cutter.in_flight_bytes(), 0u);
}

TEST(MessageChunks, WhateverComesTheMessagesAreThoseThatTheChunksSpell) {
  const uint64_t seed = 7;
  SCOPED_TRACE(seed);
  RunFuzzCorpus(LLVMFuzzerTestOneInput, FuzzCorpus("message_chunks"), /*rounds=*/4000, seed);
}

TEST(MessageChunks, ABadChunkHeaderIsAnError) {
  const ChunkHeader good{.kind = ChunkKind::kMore};
  std::string bytes(reinterpret_cast<const char*>(&good), sizeof(good));
  EXPECT_TRUE(ReadChunkHeader(bytes).ok());
  EXPECT_FALSE(ReadChunkHeader(bytes.substr(1)).ok());
  bytes[24] = kChunkKindCount;
  EXPECT_FALSE(ReadChunkHeader(bytes).ok());
  bytes[24] = 0;
  bytes[25] = 4;
  EXPECT_FALSE(ReadChunkHeader(bytes).ok());
}

}  // namespace
}  // namespace lombard
