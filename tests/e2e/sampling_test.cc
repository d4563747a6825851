// Goal: what a line asks for is what its answer shows, through the whole program: samples, log-probabilities,
// stops, seeds, defaults; and the same seed gives the same tokens wherever the KV lies. Method: runs the
// built binary on the tiny checkpoint.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "tests/support/run_program.h"
#include "tests/support/temp_dir.h"

namespace lombard {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;

class SamplingTest : public ::testing::Test {
 protected:
  // The output lines for these input lines.
  std::vector<json> Generate(const std::vector<std::string>& lines,
                             const std::vector<std::string>& flags = {}) {
    std::ofstream input(temp_ / "in.jsonl");
    for (const std::string& line : lines) input << line << "\n";
    input.close();
    std::vector<std::string> argv = {
        LOMBARD_BINARY, "generate", "--model", "tests/data/tiny",  "--threads", "1",
        "--kv-tokens",  "4096",     "--input", temp_ / "in.jsonl", "--output",  temp_ / "out.jsonl"};
    argv.insert(argv.end(), flags.begin(), flags.end());
    run_ = RunProgram(argv);
    EXPECT_EQ(run_.code, 0) << run_.err;
    std::vector<json> out;
    std::ifstream output(temp_ / "out.jsonl");
    for (std::string line; std::getline(output, line);) out.push_back(json::parse(line));
    EXPECT_EQ(out.size(), lines.size());
    out.resize(lines.size());
    return out;
  }

  const TempDir temp_;
  ProgramResult run_;
};

TEST_F(SamplingTest, FlagsApplyToLinesThatDoNotSayOtherwise) {
  const auto out = Generate({R"({"prompt": "Sara lends"})", R"({"prompt": "Sara lends", "max_tokens": 3})",
                             R"({"prompt": "Sara lends", "temperature": 0})"},
                            {"--max-tokens", "7", "--temperature", "1.5", "--seed", "9"});
  EXPECT_EQ(out[0]["token_ids"].size(), 7);
  EXPECT_EQ(out[1]["token_ids"].size(), 3);
  EXPECT_EQ(out[1]["token_ids"][2], out[0]["token_ids"][2]) << "the same seed draws the same tokens";
  const auto same = Generate({R"({"prompt": "Sara lends", "max_tokens": 7, "temperature": 1.5, "seed": 9})",
                              R"({"prompt": "Sara lends", "max_tokens": 7})"});
  EXPECT_EQ(same[0]["token_ids"], out[0]["token_ids"]);
  EXPECT_EQ(same[1]["token_ids"], out[2]["token_ids"]) << "without a flag the answer is greedy";
}

TEST_F(SamplingTest, SeveralSamplesAreChoicesAndTheFirstIsTheLine) {
  const auto out = Generate(
      {R"({"prompt": "Sara", "n": 4, "temperature": 2, "seed": 1, "max_tokens": 12, "ignore_eos": true})",
       R"({"prompt": "Sara", "temperature": 2, "seed": 1, "max_tokens": 12, "ignore_eos": true})"});
  ASSERT_EQ(out[0]["choices"].size(), 4);
  EXPECT_EQ(out[0]["usage"]["completion_tokens"], 48);
  EXPECT_EQ(out[0]["token_ids"], out[0]["choices"][0]["token_ids"]);
  EXPECT_EQ(out[0]["token_ids"], out[1]["token_ids"])
      << "the first sample is what one sample would have been";
  EXPECT_NE(out[0]["choices"][1]["token_ids"], out[0]["choices"][0]["token_ids"]);
  EXPECT_FALSE(out[1].contains("choices"));
}

TEST_F(SamplingTest, LogprobsAreThereWhenAskedAndAddUp) {
  const auto out =
      Generate({R"({"prompt": "Sara lends", "max_tokens": 6, "logprobs": 3})",
                R"({"prompt": "Sara lends", "max_tokens": 6})",
                R"({"prompt": "Sara lends", "max_tokens": 6, "logprobs": 0, "temperature": 1, "seed": 4})"});
  ASSERT_EQ(out[0]["logprobs"]["token_logprobs"].size(), 6);
  for (size_t i = 0; i < 6; ++i) {
    const json& top = out[0]["logprobs"]["top_logprobs"][i];
    ASSERT_EQ(top.size(), 3);
    const std::string chosen = absl::StrCat("token_id:", out[0]["token_ids"][i].get<int>());
    ASSERT_TRUE(top.contains(chosen)) << "greedy takes the best";
    EXPECT_EQ(top[chosen], out[0]["logprobs"]["token_logprobs"][i]);
    double sum = 0;
    for (const auto& [key, value] : top.items()) sum += std::exp(value.get<double>());
    EXPECT_GT(sum, 0);
    EXPECT_LE(sum, 1 + 1e-5);
  }
  EXPECT_FALSE(out[1].contains("logprobs"));
  EXPECT_EQ(out[2]["logprobs"]["token_logprobs"].size(), 6);
  EXPECT_FALSE(out[2]["logprobs"].contains("top_logprobs"));
}

TEST_F(SamplingTest, StopStringsAndStopIdsEndTheAnswer) {
  const auto plain = Generate({R"({"prompt": "Sara lends", "max_tokens": 40})"});
  const std::string text = plain[0]["text"];
  const std::vector<int> ids = plain[0]["token_ids"];
  ASSERT_GT(text.size(), 30u) << text;
  const std::string stop =
      text.substr(20, 5);  // crosses tokens: the tiny vocabulary has no piece so long at this place
  const json by_text = {{"prompt", "Sara lends"}, {"max_tokens", 40}, {"stop", stop}};
  const json by_id = {{"prompt", "Sara lends"}, {"max_tokens", 40}, {"stop_token_ids", {ids[5]}}};
  const json late = {
      {"prompt", "Sara lends"}, {"max_tokens", 40}, {"stop", text.substr(0, 3)}, {"min_tokens", 40}};
  const auto out = Generate({by_text.dump(), by_id.dump(), late.dump()});
  EXPECT_EQ(out[0]["text"], text.substr(0, text.find(stop)));
  EXPECT_EQ(out[0]["finish_reason"], "stop");
  EXPECT_LT(out[0]["token_ids"].size(), ids.size());
  EXPECT_EQ(out[1]["finish_reason"], "stop");
  const size_t first = std::find(ids.begin(), ids.end(), ids[5]) - ids.begin();
  EXPECT_EQ(out[1]["token_ids"].size(), first + 1) << "the stop token is counted, its text is not shown";
  EXPECT_TRUE(absl::StartsWith(text, out[1]["text"].get<std::string>()));
  EXPECT_EQ(out[2]["finish_reason"], "length") << "nothing stops below min_tokens";
}

TEST_F(SamplingTest, SampledTokensDoNotDependOnWhereTheKvLies) {
  std::vector<std::string> lines;
  for (int i = 0; i < 12; ++i) {
    lines.push_back(json{
        {"prompt", absl::StrCat("Sara lends ", i, " coins of ")},
        {"max_tokens", 60},
        {"temperature", 0.9},
        {"top_p", 0.95},
        {"seed", i},
        {"ignore_eos", true},
        {"repetition_penalty",
         1.05}}.dump());
  }
  const auto alone = Generate(lines);
  const auto shared =
      Generate(lines, {"--in-process", "3", "--kv-tokens", "32,64,96", "--block-tokens", "8"});
  for (size_t i = 0; i < lines.size(); ++i)
    EXPECT_EQ(shared[i]["token_ids"], alone[i]["token_ids"]) << lines[i];
}

TEST_F(SamplingTest, IsSilentOnStandardOutputAndDrawsNoProgressInAPipe) {
  Generate({R"({"prompt": "Sara"})"});
  EXPECT_EQ(run_.out, "");
  EXPECT_THAT(run_.err, Not(HasSubstr("\r")));
}

TEST_F(SamplingTest, TheInputFileIsNeverTheOutput) {
  const std::string line = R"({"prompt": "Sara"})";
  std::ofstream(temp_ / "in.jsonl") << line;
  const ProgramResult run = RunProgram({LOMBARD_BINARY, "generate", "--model", "tests/data/tiny", "--input",
                                        temp_ / "in.jsonl", "--output", temp_ / "in.jsonl"});
  EXPECT_EQ(run.code, 1);
  EXPECT_EQ(*ReadWholeFile(temp_ / "in.jsonl"), line);
}

}  // namespace
}  // namespace lombard
