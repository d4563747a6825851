// Goal: the output file holds one line per request in the order of the input, whatever the order of
// finishing, and survives interruption. Method: real files; /dev/full for a full disk.
#include "runtime/generate/output_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "tests/support/temp_dir.h"

namespace lombard {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<GenerateRequest> Requests(int count) {
  std::string text;
  for (int i = 0; i < count; ++i) absl::StrAppend(&text, "{\"id\": \"r", i, "\", \"prompt\": \"x\"}\n");
  return ParseRequests(text, RequestDefaults());
}

GenerateResult Result(const std::string& text) {
  GenerateResult result;
  result.samples.push_back({.text = text, .token_ids = {1, 2}, .finish_reason = "stop"});
  return result;
}

class OutputFileTest : public ::testing::Test {
 protected:
  std::string TempPath() const { return temp_ / "output.jsonl"; }
  const TempDir temp_;
};

std::string Content(const std::string& path) { return *ReadWholeFile(path); }
void WriteFile(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

std::vector<std::string> IdsIn(const std::string& path) {
  std::vector<std::string> ids;
  const std::string content = Content(path);
  for (absl::string_view line : absl::StrSplit(content, '\n', absl::SkipEmpty())) {
    ids.push_back(json::parse(line.begin(), line.end())["id"]);
  }
  return ids;
}

TEST(ResultLine, HasTheFieldsOfTheContract) {
  GenerateResult result{.prompt_tokens = 12, .ttft_s = 0.5, .tpot_s = 0.25, .e2e_s = 1.5};
  result.samples.push_back({.text = "h\xc3\xa9\n", .token_ids = {4, 5, 2}, .finish_reason = "length"});
  const json line = json::parse(ResultLine("\"a\"", result));
  EXPECT_EQ(line,
            json::parse(R"({"id": "a", "text": "h\u00e9\n", "token_ids": [4, 5, 2], "finish_reason": "length",
    "usage": {"prompt_tokens": 12, "completion_tokens": 3}, "timing": {"ttft_s": 0.5, "tpot_s": 0.25, "e2e_s": 1.5}})"));
}

TEST(ResultLine, WritesLogprobsWhenAsked) {
  GenerateResult result{.logprobs = true};
  result.samples.push_back({.token_ids = {4, 5}, .token_logprobs = {-0.1f, -2}, .top_logprobs = {{}, {}}});
  json line = json::parse(ResultLine("1", result));
  EXPECT_EQ(line["logprobs"], json::parse(R"({"token_logprobs": [-0.1, -2]})"));
  result.samples[0].top_logprobs = {{{4, -0.1f}, {9, -3.5f}},
                                    {{7, -1}, {5, -std::numeric_limits<float>::infinity()}}};
  line = json::parse(ResultLine("1", result));
  EXPECT_EQ(
      line["logprobs"]["top_logprobs"],
      json::parse(R"([{"token_id:4": -0.1, "token_id:9": -3.5}, {"token_id:7": -1, "token_id:5": null}])"));
}

TEST(ResultLine, WritesChoicesForSeveralSamples) {
  GenerateResult result = Result("one");
  result.samples.push_back({.text = "two", .token_ids = {7}, .finish_reason = "length"});
  const json line = json::parse(ResultLine("7", result));
  EXPECT_EQ(line["id"], 7);
  EXPECT_EQ(line["text"], "one");
  EXPECT_EQ(line["usage"]["completion_tokens"], 3);
  ASSERT_EQ(line["choices"].size(), 2);
  EXPECT_EQ(line["choices"][1],
            json::parse(R"({"index": 1, "text": "two", "token_ids": [7], "finish_reason": "length"})"));
}

TEST(ResultLine, WritesErrorsAndBrokenTextAsValidJson) {
  GenerateResult result;
  result.error = RequestError{.type = "server_error", .message = "rank 2 \"was\" lost \xff"};
  const json line = json::parse(ResultLine("\"a\\\"b\"", result));
  EXPECT_EQ(line["id"], "a\"b");
  EXPECT_EQ(line["error"]["type"], "server_error");
  EXPECT_THAT(std::string(line["error"]["message"]), HasSubstr("rank 2 \"was\" lost"));
  EXPECT_FALSE(line.contains("text"));
}

TEST_F(OutputFileTest, KeepsTheOrderOfTheInputWhateverFinishesFirst) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const auto requests = Requests(30);
    auto output = OutputFile::Create(TempPath(), false, requests);
    ASSERT_TRUE(output.ok()) << output.status();
    std::vector<size_t> order(requests.size());
    std::iota(order.begin(), order.end(), 0);
    std::mt19937_64 rng(seed);
    std::shuffle(order.begin(), order.end(), rng);
    std::vector<bool> finished(requests.size(), false);
    for (const size_t index : order) {
      ASSERT_TRUE((*output)->Put(index, Result("x")).ok());
      finished[index] = true;
      const size_t expected = std::find(finished.begin(), finished.end(), false) - finished.begin();
      ASSERT_EQ(IdsIn(TempPath()).size(), expected)
          << "a line is there as soon as the order allows; seed " << seed;
    }
    ASSERT_TRUE((*output)->Close().ok());
    const auto ids = IdsIn(TempPath());
    for (size_t i = 0; i < ids.size(); ++i) EXPECT_EQ(ids[i], absl::StrCat("r", i));
  }
}

TEST_F(OutputFileTest, ClosingBeforeAllAreThereNamesTheFirstMissing) {
  const auto requests = Requests(3);
  auto output = *OutputFile::Create(TempPath(), false, requests);
  ASSERT_TRUE(output->Put(0, Result("x")).ok());
  ASSERT_TRUE(output->Put(2, Result("x")).ok());
  const absl::Status status = output->Close();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("\"r1\""));
}

TEST_F(OutputFileTest, ResumeCutsAHalfWrittenLineAndDoesTheRest) {
  const auto requests = Requests(4);
  const std::string whole =
      absl::StrCat(ResultLine("\"r0\"", Result("kept")), "\n", ResultLine("\"r1\"", Result("kept")), "\n");
  const std::string third = ResultLine("\"r2\"", Result("half"));
  // Whatever byte the third line was cut at, its line end included.
  for (size_t cut = 0; cut <= third.size(); ++cut) {
    WriteFile(TempPath(), whole + third.substr(0, cut));
    auto output = OutputFile::Create(TempPath(), true, requests);
    ASSERT_TRUE(output.ok()) << output.status();
    EXPECT_EQ((*output)->done_count(), 2);
    EXPECT_TRUE((*output)->done(0) && (*output)->done(1));
    ASSERT_TRUE((*output)->Put(3, Result("new")).ok());
    ASSERT_TRUE((*output)->Put(2, Result("new")).ok());
    ASSERT_TRUE((*output)->Close().ok());
    ASSERT_EQ(Content(TempPath()), absl::StrCat(whole, ResultLine("\"r2\"", Result("new")), "\n",
                                                ResultLine("\"r3\"", Result("new")), "\n"));
  }
}

TEST_F(OutputFileTest, ResumeSkipsWhatIsThereWhereverItStands) {
  const auto requests = Requests(3);
  WriteFile(TempPath(), absl::StrCat(ResultLine("\"r1\"", Result("kept")), "\n",
                                     ResultLine("\"other\"", Result("kept")), "\n"));
  auto output = *OutputFile::Create(TempPath(), true, requests);
  EXPECT_FALSE(output->done(0));
  EXPECT_TRUE(output->done(1));
  ASSERT_TRUE(output->Put(0, Result("x")).ok());
  ASSERT_TRUE(output->Put(2, Result("x")).ok());
  ASSERT_TRUE(output->Close().ok());
  EXPECT_THAT(IdsIn(TempPath()), ElementsAre("r1", "other", "r0", "r2"));
}

TEST_F(OutputFileTest, ResumeOfACompleteOrAbsentFileIsFine) {
  const auto requests = Requests(1);
  std::remove(TempPath().c_str());
  auto absent = *OutputFile::Create(TempPath(), true, requests);
  EXPECT_EQ(absent->done_count(), 0);
  ASSERT_TRUE(absent->Put(0, Result("x")).ok());
  ASSERT_TRUE(absent->Close().ok());
  auto complete = *OutputFile::Create(TempPath(), true, requests);
  EXPECT_EQ(complete->done_count(), 1);
  EXPECT_TRUE(complete->Close().ok());
}

TEST_F(OutputFileTest, ResumeCountsEachOfTwoLinesWithTheSameId) {
  const auto requests =
      ParseRequests("{\"id\": 1, \"prompt\": \"x\"}\n{\"id\": 1, \"prompt\": \"y\"}\n", RequestDefaults());
  WriteFile(TempPath(), absl::StrCat(ResultLine("1", Result("x")), "\n"));
  auto output = *OutputFile::Create(TempPath(), true, requests);
  EXPECT_TRUE(output->done(0));
  EXPECT_FALSE(output->done(1)) << "its error line is still to be written";
}

TEST_F(OutputFileTest, ResumeRefusesAFileThatIsSomethingElse) {
  const auto requests = Requests(1);
  const std::string text = "dear diary\n{\"id\": \"r0\"}\n";
  WriteFile(TempPath(), text);
  const auto output = OutputFile::Create(TempPath(), true, requests);
  ASSERT_FALSE(output.ok());
  EXPECT_THAT(std::string(output.status().message()), HasSubstr(absl::StrCat(TempPath(), ":1")));
  EXPECT_EQ(Content(TempPath()), text) << "it must be left alone";
}

TEST_F(OutputFileTest, AFullDiskIsAStatusWithThePathAndStays) {
  const auto requests = Requests(2);
  auto output = OutputFile::Create("/dev/full", false, requests);
  ASSERT_TRUE(output.ok()) << output.status();
  const absl::Status status = (*output)->Put(0, Result("x"));
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("'/dev/full'"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("--resume"));
  EXPECT_EQ((*output)->Put(1, Result("x")), status);
  EXPECT_EQ((*output)->Close(), status);
}

TEST_F(OutputFileTest, SaysWhyItCannotBeOpened) {
  const auto output = OutputFile::Create("/no/such/dir/out.jsonl", false, Requests(1));
  EXPECT_TRUE(absl::IsNotFound(output.status()));
  EXPECT_THAT(std::string(output.status().message()), HasSubstr("'/no/such/dir/out.jsonl'"));
}

TEST_F(OutputFileTest, TheInputIsNotAnOutput) {
  WriteFile(TempPath(), "x");
  EXPECT_FALSE(CheckDifferentFiles(TempPath(), temp_ / "./output.jsonl").ok());
  EXPECT_TRUE(CheckDifferentFiles(TempPath(), "/no/such/file").ok());
  EXPECT_TRUE(CheckDifferentFiles("/dev/null", "/dev/null").ok());
}

}  // namespace
}  // namespace lombard
