#include "kernels/cpu_context.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace lombard {
namespace {

TEST(CpuContextTest, ParsesTheNamesThisCpuOffersAndRefusesTheRestByName) {
  for (Isa isa : kAllIsas) {
    const auto parsed = ParseIsa(IsaName(isa));
    if (isa <= DetectIsa()) {
      ASSERT_TRUE(parsed.ok());
      EXPECT_EQ(*parsed, isa);
    } else {
      EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
      EXPECT_THAT(std::string(parsed.status().message()),
                  testing::HasSubstr(std::string(IsaName(DetectIsa()))));
    }
  }
  const auto unknown = ParseIsa("sse9");
  EXPECT_EQ(unknown.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(unknown.status().message()), testing::HasSubstr("sse9"));
}

}  // namespace
}  // namespace lombard
