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
  KvHeader kv;
  EXPECT_FALSE(DecodeKv(WireKind::kKvWrite, query, &kv).ok());
}

TEST(Wire, RandomBytesNeverDoMoreThanBeRefused) {
  for (uint32_t seed = 0; seed < 2000; ++seed) {
    std::mt19937 random(seed);
    std::string bytes(random() % 120, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random());
    if (!bytes.empty()) bytes[0] = static_cast<char>(1 + random() % 4);
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
  }
}

}  // namespace
}  // namespace lombard
