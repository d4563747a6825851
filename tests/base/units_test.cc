#include "base/units.h"

#include <gtest/gtest.h>

namespace lombard {
namespace {

TEST(Units, ReadsWhatPeopleWrite) {
  EXPECT_EQ(*ParseBytes("4096"), 4096u);
  EXPECT_EQ(*ParseBytes("64MiB"), 64u << 20);
  EXPECT_EQ(*ParseBytes("1.5GB"), 1500000000u);
  EXPECT_DOUBLE_EQ(*ParseBandwidth("10Gbit"), 1.25e9);
  EXPECT_DOUBLE_EQ(*ParseBandwidth("2GB/s"), 2e9);
  EXPECT_EQ(*ParseDuration("200ms"), absl::Milliseconds(200));
  EXPECT_DOUBLE_EQ(*ParseFraction("5%"), 0.05);
  EXPECT_DOUBLE_EQ(*ParseFraction("0"), 0.0);
}

TEST(Units, RefusesTheRestAndNamesTheValue) {
  for (const char* text : {"", "-1", "MiB", "12XB", "1e30GB", "nan"}) {
    const auto bytes = ParseBytes(text);
    ASSERT_FALSE(bytes.ok()) << text;
    EXPECT_NE(bytes.status().message().find(text), absl::string_view::npos);
  }
  EXPECT_FALSE(ParseFraction("101%").ok());
  EXPECT_FALSE(ParseFraction("-1%").ok());
  EXPECT_FALSE(ParseDuration("-1s").ok());
  EXPECT_FALSE(ParseDuration("5").ok());
  EXPECT_FALSE(ParseBandwidth("fast").ok());
}

TEST(Units, FormatsForPeople) {
  EXPECT_EQ(FormatBytes(17), "17 B");
  EXPECT_EQ(FormatBytes(12 << 10), "12 KiB");
  EXPECT_EQ(FormatBytes(3ull << 29), "1.5 GiB");
}

}  // namespace
}  // namespace lombard
