#include "runtime/model/safetensors.h"

#include <algorithm>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/runtime/model/checkpoint_files.h"
#include "tests/support/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace lombard {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

absl::StatusOr<SafetensorsHeader> Parse(const std::string& file) {
  return ParseSafetensors({reinterpret_cast<const std::byte*>(file.data()), file.size()}, file.size(),
                          "m.safetensors");
}

const std::vector<TensorSpec>& TwoTensors() {
  static const auto* tensors =
      new std::vector<TensorSpec>{{"a", DType::kF32, {2, 3}}, {"b", DType::kBF16, {5}}};
  return *tensors;
}

std::string SmallFile() {
  TempDir dir;
  WritePattern(dir.File("m.safetensors"), TwoTensors());
  return dir.Read("m.safetensors");
}

TEST(Safetensors, WhatTheWriterWritesIsRead) {
  const std::string file = SmallFile();
  const auto header = Parse(file);
  ASSERT_TRUE(header.ok()) << header.status();
  ASSERT_EQ(header->tensors.size(), 2u);
  const TensorInfo &a = header->tensors[0], &b = header->tensors[1];
  EXPECT_EQ(a.name, "a");
  EXPECT_EQ(a.dtype, "F32");
  EXPECT_EQ(a.ShapeText(), "[2, 3]");
  EXPECT_EQ(b.name, "b");
  EXPECT_EQ(b.dtype, "BF16");
  EXPECT_EQ(a.end, b.begin);
  EXPECT_EQ(b.end, file.size());
  EXPECT_EQ(a.begin % 64, 0u) << "data starts on a cache line";
  EXPECT_EQ(file.substr(a.begin, a.end - a.begin), PatternBytes(TwoTensors()[0]));
  EXPECT_EQ(header->metadata.at("format"), "pt");
}

TEST(Safetensors, ScalarsEmptyTensorsUnknownDtypesAndUnorderedHeadersAreLegal) {
  const auto header = Parse(RawSafetensors(
      R"({"z":{"dtype":"F64","shape":[],"data_offsets":[3,11]},"none":{"dtype":"F32","shape":[4,0],"data_offsets":[3,3]},)"
      R"("odd":{"dtype":"F4","shape":[6],"data_offsets":[0,3]},"__metadata__":null}   )",
      std::string(11, 'x')));
  ASSERT_TRUE(header.ok()) << header.status();
  ASSERT_EQ(header->tensors.size(), 3u);
  EXPECT_EQ(header->tensors[0].name, "odd");
  EXPECT_EQ(header->tensors[1].name, "none");
  EXPECT_EQ(header->tensors[2].name, "z");
  EXPECT_TRUE(Parse(RawSafetensors("{}", "")).ok());
}

TEST(Safetensors, BrokenHeadersAreNamedWithWhatWasExpected) {
  const std::string a = R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]})";
  const struct {
    std::string header;
    std::string data;
    std::vector<std::string> said;
  } cases[] = {
      {"{" + a + "}", "1234567", {"tensor a", "<= 7", "[0, 8]", "truncated"}},
      {"{" + a + "}", "123456789", {"expected", "found"}},
      {"{" + a + "," + a + "}", "12345678", {"names a twice"}},
      {"{" + a + R"(,"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
       "12345678",
       {"tensor b", "overlaps", "expected begin 8", "found 4"}},
      {"{" + a + R"(,"b":{"dtype":"F32","shape":[1],"data_offsets":[12,16]}})",
       std::string(16, 'x'),
       {"tensor b", "hole", "expected begin 8", "found 12"}},
      {R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})",
       "12345678",
       {"tensor a", "F32 [3]", "expected 12 bytes", "found 8"}},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", "12345678", {"tensor a", "[8, 0]"}},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8,9]}})",
       "12345678",
       {"tensor a", "two whole numbers"}},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0]}})",
       "12345678",
       {"tensor a", "two whole numbers"}},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,-8]}})",
       "12345678",
       {"tensor a", "two whole numbers"}},
      {R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", "12345678", {"tensor a", "shape"}},
      {R"({"a":{"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,8]}})",
       "12345678",
       {"tensor a", "elements"}},
      {R"({"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}})",
       "1234",
       {"tensor a", "dimensions"}},
      {R"({"a":{"dtype":32,"shape":[2],"data_offsets":[0,8]}})", "12345678", {"tensor a", "dtype"}},
      {R"({"a":{"shape":[2],"data_offsets":[0,8]}})", "12345678", {"tensor a", "dtype"}},
      {R"({"a":[2]})", "12345678", {"tensor a", "object"}},
      {R"([1])", "", {"object"}},
      {R"({"a")", "", {"JSON"}},
      {"", "", {"JSON"}},
      {R"({"__metadata__":{"format":1}})", "", {"__metadata__", "format"}},
  };
  for (const auto& [header, data, said] : cases) {
    const auto parsed = Parse(RawSafetensors(header, data));
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument) << header;
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr("m.safetensors")) << header;
    for (const std::string& part : said)
      EXPECT_THAT(std::string(parsed.status().message()), HasSubstr(part)) << header;
  }
}

TEST(Safetensors, AbsurdHeaderLengthsAreRefused) {
  for (const uint64_t length : {uint64_t{100'000'001}, ~uint64_t{0}, uint64_t{1} << 63, uint64_t{50}}) {
    std::string file = SmallFile().substr(0, 40);
    for (int i = 0; i < 8; ++i) file[i] = static_cast<char>(length >> (8 * i));
    EXPECT_THAT(std::string(Parse(file).status().message()), HasSubstr(absl::StrCat(length)));
  }
}

TEST(Safetensors, EveryTruncationIsFound) {
  const std::string file = SmallFile();
  for (size_t size = 0; size < file.size(); ++size) EXPECT_FALSE(Parse(file.substr(0, size)).ok()) << size;
}

// Every value of every byte of a header. The fuzz entry checks that whatever is accepted lies back to back
// within the file.
TEST(Safetensors, NoCorruptedHeaderPointsOutsideTheFile) {
  const std::string good = SmallFile();
  const auto header = Parse(good);
  ASSERT_TRUE(header.ok());
  int accepted = 0, refused = 0;
  for (size_t at = 0; at < header->tensors[0].begin; ++at) {
    for (int value = 0; value < 256; ++value) {
      std::string file = good;
      file[at] = static_cast<char>(value);
      SCOPED_TRACE(absl::StrCat("byte ", at, " = ", value));
      LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(file.data()), file.size());
      ++(Parse(file).ok() ? accepted : refused);
    }
  }
  EXPECT_GT(accepted, 100) << "names and metadata may change";
  EXPECT_GT(refused, 1000);
}

TEST(Safetensors, SurvivesItsFuzzCorpusAndMutations) {
  constexpr uint64_t kSeed = 11;
  SCOPED_TRACE(absl::StrCat("seed ", kSeed));
  const auto corpus = FuzzCorpus("safetensors");
  ASSERT_GE(corpus.size(), 2u);
  RunFuzzCorpus(LLVMFuzzerTestOneInput, corpus, 5000, kSeed);
}

TEST(SafetensorsWriter, LeavesNothingBehindWhenItDoesNotFinish) {
  TempDir dir;
  const std::string path = dir.File("m.safetensors");
  {
    auto writer = SafetensorsWriter::Create(path, TwoTensors());
    ASSERT_TRUE(writer.ok()) << writer.status();
    EXPECT_FALSE(std::filesystem::exists(path)) << "not before it is whole";
  }
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
}

TEST(SafetensorsWriter, DiskErrorsAreStatuses) {
  TempDir dir;
  EXPECT_EQ(SafetensorsWriter::Create(dir.File("no/such/dir.safetensors"), TwoTensors()).status().code(),
            absl::StatusCode::kNotFound);
  // A link to /dev/full: every write finds the disk full.
  std::filesystem::create_symlink("/dev/full", dir.File("m.safetensors.part"));
  const auto writer = SafetensorsWriter::Create(dir.File("m.safetensors"), TwoTensors());
  EXPECT_EQ(writer.status().code(), absl::StatusCode::kResourceExhausted) << writer.status();
  EXPECT_THAT(std::string(writer.status().message()),
              AllOf(HasSubstr("m.safetensors"), HasSubstr("No space")));
}

}  // namespace
}  // namespace lombard
