#include "base/dynamic_library.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lombard {
namespace {

using testing::AllOf;
using testing::HasSubstr;

TEST(DynamicLibraryTest, LoadsTheFirstThatIsThere) {
  const auto library = DynamicLibrary::Open({"liblombard_missing.so.1", "libm.so.6"});
  ASSERT_TRUE(library.ok()) << library.status();
  EXPECT_EQ(library->name(), "libm.so.6");
  double (*root)(double) = nullptr;
  ASSERT_TRUE(library->Load("sqrt", &root).ok());
  EXPECT_EQ(root(9), 3);
  const absl::Status missing = library->Load("lombard_missing", &root);
  EXPECT_EQ(missing.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(missing.message()), HasSubstr("libm.so.6 has no 'lombard_missing'"));
}

TEST(DynamicLibraryTest, NamesAllThatAreMissing) {
  const auto library = DynamicLibrary::Open({"liblombard_a.so", "liblombard_b.so"});
  EXPECT_EQ(library.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(library.status().message()),
              AllOf(HasSubstr("liblombard_a.so"), HasSubstr("liblombard_b.so")));
}

}  // namespace
}  // namespace lombard
