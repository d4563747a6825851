#include "distattn/wire.h"

#include <gtest/gtest.h>

#include <random>

namespace lombard {
namespace {

TEST(Wire, HeadersSurviveTheRoundTrip) {
  const std::vector<QueryItem> items = {{.loan = 7,
                                         .epoch = 2,
                                         .first_slot = 3,
                                         .rows = 4,
                                         .first_query_position = 900,
                                         .first_position = 96,
                                         .token_count = 64,
                                         .window = 128},
                                        {.loan = 8, .rows = 1}};
  QueryHeader query;
  std::vector<QueryItem> read;
  ASSERT_TRUE(
      DecodeQuery(
          EncodeQuery({.incarnation = 5, .exchange = 6, .part = 1, .step = 9, .layer = 2, .compact = 1},
                      items),
          &query, &read)
          .ok());
  EXPECT_EQ(query.exchange, 6u);
  EXPECT_EQ(query.compact, 1);
  ASSERT_EQ(read.size(), 2u);
  EXPECT_EQ(read[0].first_query_position, 900);
  EXPECT_EQ(read[0].window, 128);
  EXPECT_EQ(read[1].loan, 8u);

  StateHeader state;
  std::string text;
  ASSERT_TRUE(
      DecodeState(EncodeState({.exchange = 3, .part = 2, .code = 5, .refused_item = 7}, "why"), &state, &text)
          .ok());
  EXPECT_EQ(state.code, 5u);
  EXPECT_EQ(state.refused_item, 7u);
  EXPECT_EQ(text, "why");

  KvHeader kv;
  ASSERT_TRUE(DecodeKv(WireKind::kKvWrite,
                       EncodeKv(WireKind::kKvWrite,
                                {.transfer = 1, .loan = 2, .layer = 3, .first_slot = 4, .slot_count = 5}),
                       &kv)
                  .ok());
  EXPECT_EQ(kv.slot_count, 5u);
  const std::string asked = EncodeKv(WireKind::kKvRead, kv);
  EXPECT_TRUE(DecodeKv(WireKind::kKvRead, asked, &kv).ok());
  EXPECT_FALSE(DecodeKv(WireKind::kKvData, asked, &kv).ok());
  EXPECT_TRUE(ForService(*PeekKind(asked)));

  PairMessage pair;
  const std::string opened = EncodePair(WireKind::kPairOpened, {.serial = 4,
                                                                .from_creditor = 1,
                                                                .code = 9,
                                                                .key = std::string(128, '\0'),
                                                                .text = "why",
                                                                .host = "a",
                                                                .pci = "0000:1b:00.0"});
  ASSERT_TRUE(DecodePair(WireKind::kPairOpened, opened, &pair).ok());
  EXPECT_EQ(pair.serial, 4u);
  EXPECT_EQ(pair.code, 9u);
  EXPECT_EQ(pair.key.size(), 128u);
  EXPECT_EQ(pair.text + pair.host + pair.pci, "whya0000:1b:00.0");
  EXPECT_FALSE(DecodePair(WireKind::kPairOpen, opened, &pair).ok());
  EXPECT_TRUE(ForExchanger(*PeekKind(opened)));

  AnnounceHeader announce;
  const std::string announced = EncodeAnnounce({.serial = 11, .step = 12}, items);
  ASSERT_TRUE(DecodeAnnounce(announced, &announce, &read).ok());
  EXPECT_EQ(announce.serial, 11u);
  EXPECT_EQ(announce.step, 12u);
  ASSERT_EQ(read.size(), 2u);
  EXPECT_EQ(read[0].token_count, 64);
  EXPECT_TRUE(ForService(*PeekKind(announced)));
  AnnounceAnswerHeader answer;
  ASSERT_TRUE(DecodeAnnounceAnswer(EncodeAnnounceAnswer({.serial = 13, .answer = 2}), &answer).ok());
  EXPECT_EQ(answer.serial, 13u);
  EXPECT_EQ(answer.answer, 2);
}

TEST(Wire, EveryTruncationAndEveryOtherKindIsRefused) {
  const std::string query = EncodeQuery({.step = 1}, {{.loan = 1}, {.loan = 2}});
  for (size_t length = 0; length < query.size(); ++length) {
    QueryHeader header;
    std::vector<QueryItem> items;
    ASSERT_FALSE(DecodeQuery(absl::string_view(query).substr(0, length), &header, &items).ok()) << length;
  }
  QueryHeader header;
  std::vector<QueryItem> items;
  EXPECT_FALSE(DecodeQuery(query + "x", &header, &items).ok());
  const std::string pair = EncodePair(WireKind::kPairOpen, {.key = "key", .host = "host"});
  for (size_t length = 0; length < pair.size(); ++length) {
    PairMessage message;
    ASSERT_FALSE(DecodePair(WireKind::kPairOpen, absl::string_view(pair).substr(0, length), &message).ok())
        << length;
  }
  KvHeader kv;
  EXPECT_FALSE(DecodeKv(WireKind::kKvWrite, query, &kv).ok());
}

TEST(Wire, RandomBytesNeverDoMoreThanBeRefused) {
  for (uint32_t seed = 0; seed < 2000; ++seed) {
    std::mt19937 random(seed);
    std::string bytes(random() % 120, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random());
    if (!bytes.empty()) bytes[0] = static_cast<char>(1 + random() % 11);
    QueryHeader query;
    std::vector<QueryItem> items;
    StateHeader state;
    KvHeader kv;
    KvAckHeader ack;
    std::string text;
    DecodeQuery(bytes, &query, &items).IgnoreError();
    EXPECT_LE(items.size(), 120u) << "seed " << seed;
    DecodeState(bytes, &state, &text).IgnoreError();
    DecodeKv(WireKind::kKvWrite, bytes, &kv).IgnoreError();
    DecodeKvAck(bytes, &ack, &text).IgnoreError();
    PairMessage pair;
    AnnounceHeader announce;
    AnnounceAnswerHeader answer;
    DecodePair(WireKind::kPairOpen, bytes, &pair).IgnoreError();
    EXPECT_LE(pair.key.size() + pair.pci.size(), 120u) << "seed " << seed;
    DecodeAnnounce(bytes, &announce, &items).IgnoreError();
    DecodeAnnounceAnswer(bytes, &answer).IgnoreError();
  }
}

}  // namespace
}  // namespace lombard
