// Goal: the drawing shows what the report says, to scale, and a report that lacks a field is refused by its
// name.
#include "tools/report_drawing/draw.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lombard {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::string Rank(int capacity, int used, int lent, int borrowed) {
  return "{\"kv_tokens\":{\"capacity\":" + std::to_string(capacity) +
         ",\"used_max\":" + std::to_string(used) + ",\"lent_max\":" + std::to_string(lent) +
         ",\"borrowed_max\":" + std::to_string(borrowed) + "}}";
}

std::string Report(const std::string& ranks) {
  return R"({"tokens":{"prompt":9,"output":64},"output_tokens_per_s":12.5,"steps":40,"remote_steps":30,)"
         R"("wire_bytes":{"query":2048,"state":4096,"kv":1024,"control":1,"framing":1},"ranks":[)" +
         ranks + "]}";
}

TEST(DrawReportTest, BarsAreToScaleAndTheFlowIsNamedWhenOneRankBorrowed) {
  const auto drawing = DrawReport(Report(Rank(80, 80, 0, 120) + "," + Rank(160, 40, 120, 0)), 16);
  ASSERT_TRUE(drawing.ok()) << drawing.status();
  EXPECT_THAT(*drawing, HasSubstr("one mark for 10 tokens"));
  EXPECT_THAT(*drawing, HasSubstr("rank 0  |########|+<<<<<<<<<<<<\n"));
  EXPECT_THAT(*drawing, HasSubstr("rank 1  |####>>>>>>>>>>>>|\n"));
  EXPECT_THAT(*drawing, HasSubstr("rank 1 ==[  120 tokens]==> rank 0\n"));
  EXPECT_THAT(*drawing, HasSubstr("64 tokens out, 12.5 tokens/s; 30 of 40 steps"));
  EXPECT_THAT(*drawing, HasSubstr("queries 2 KiB, states 4 KiB, KV 1 KiB"));
}

TEST(DrawReportTest, WithTwoDebtorsNoFlowIsClaimed) {
  const auto drawing = DrawReport(Report(Rank(80, 80, 16, 32) + "," + Rank(80, 80, 32, 16)), 16);
  ASSERT_TRUE(drawing.ok()) << drawing.status();
  EXPECT_THAT(*drawing, Not(HasSubstr("==>")));
}

TEST(DrawReportTest, SomethingSmallIsStillSeen) {
  const auto drawing = DrawReport(Report(Rank(100000, 1, 1, 1)), 10);
  ASSERT_TRUE(drawing.ok()) << drawing.status();
  EXPECT_THAT(*drawing, HasSubstr("|#>........|+<\n"));
}

TEST(DrawReportTest, AMissingFieldIsNamed) {
  EXPECT_THAT(std::string(DrawReport("{\"ranks\":[{}]}").status().message()),
              HasSubstr("kv_tokens.capacity"));
  EXPECT_THAT(std::string(DrawReport("{\"ranks\":[]}").status().message()), HasSubstr("tokens.output"));
  EXPECT_FALSE(DrawReport("[1]").ok());
  EXPECT_FALSE(DrawReport("{").ok());
  EXPECT_THAT(
      std::string(DrawReport("{\"ranks\":[{\"kv_tokens\":{\"capacity\":\"x\"}}]}").status().message()),
      HasSubstr("is no number"));
}

}  // namespace
}  // namespace lombard
