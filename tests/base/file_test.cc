#include "base/file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "tests/support/temp_dir.h"

namespace lombard {
namespace {

using ::testing::HasSubstr;

TEST(ReadWholeFile, ReadsEveryByteOfSmallAndLargeFiles) {
  const TempDir temp;
  const std::string path = temp / "file";
  for (const size_t bytes : {0, 1, 65535, 65536, 65537, 1000003}) {
    std::string content(bytes, '\0');
    for (size_t i = 0; i < bytes; ++i) content[i] = static_cast<char>(i * 131);
    std::ofstream(path, std::ios::binary) << content;
    const auto text = ReadWholeFile(path);
    ASSERT_TRUE(text.ok()) << text.status();
    EXPECT_EQ(*text, content);
  }
}

TEST(ReadWholeFile, SaysWhichPathAndWhy) {
  const auto missing = ReadWholeFile("/no/such/file");
  EXPECT_TRUE(absl::IsNotFound(missing.status()));
  EXPECT_THAT(std::string(missing.status().message()), HasSubstr("'/no/such/file'"));
  const auto directory = ReadWholeFile("/");
  ASSERT_FALSE(directory.ok());
  EXPECT_THAT(std::string(directory.status().message()), HasSubstr("directory"));
}

}  // namespace
}  // namespace lombard
