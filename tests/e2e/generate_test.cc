// Goal: `lombard generate` as a user meets it, on one process: golden tokens, bad input, nothing lost.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "tests/e2e/generate_run.h"
#include "tests/support/shared_data.h"

namespace lombard {
namespace {

using ::testing::HasSubstr;

constexpr char kTiny[] = "tests/data/tiny";
constexpr double kFp32Bound = 0.001, kBf16Bound = 0.15;  // see docs: equal until a step whose gap is below

struct Checkpoint {
  const char *name, *model, *goldens;
  double bound;
};

class GenerateGoldens : public testing::TestWithParam<Checkpoint> {};

TEST_P(GenerateGoldens, AreGivenAloneAndOnUnevenBudgetsInProcess) {
  const Checkpoint& c = GetParam();
  if (IsSharedPath(c.goldens)) LOMBARD_SKIP_WITHOUT(c.goldens);
  if (IsSharedPath(c.model)) LOMBARD_SKIP_WITHOUT(c.model);
  const std::vector<GoldenCase> goldens = ReadGoldens(c.goldens);
  for (const std::vector<std::string>& args :
       {std::vector<std::string>{"--kv-tokens", "8192"},
        {"--kv-tokens", "8192", "--isa", "base"},
        {"--in-process", "4", "--kv-tokens", "320,640,960,320", "--block-tokens", "16"}}) {
    const GenerateRun run = RunGenerateProgram(0, c.model, GoldenInput(goldens), args);
    EXPECT_EQ(GoldenMismatches(goldens, run, c.bound), "")
        << c.goldens << " with " << testing::PrintToString(args);
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, GenerateGoldens,
    testing::Values(Checkpoint{"tiny", kTiny, "tests/data/tiny-golden.json", kFp32Bound},
                    Checkpoint{"tiny_bf16", "tests/data/tiny-bf16", "tests/data/tiny-bf16-golden.json",
                               kBf16Bound},
                    Checkpoint{"stories260K", "../shared/data/models/stories260K-hf",
                               "../shared/data/models/stories260K-golden.json", kFp32Bound},
                    Checkpoint{"stories260K_batch64", "../shared/data/models/stories260K-hf",
                               "../shared/data/models/stories260K-golden-batch64.jsonl", kFp32Bound},
                    Checkpoint{"stories260K_bf16", "../shared/data/models/stories260K-hf-bf16-sharded",
                               "../shared/data/models/stories260K-bf16-golden.json", kBf16Bound}),
    [](const auto& info) { return info.param.name; });

TEST(Generate, TheWrongLineOfAFileIsReportedInItsPlaceAndTheOthersAreAnswered) {
  const std::string good = R"({"prompt": [549, 5], "max_tokens": 3})";
  const GenerateRun run = RunGenerateProgram(
      0, kTiny, absl::StrCat(good, "\n", good, "\n{\"prompt\": \n", good, "\n", good, "\n"), {});
  EXPECT_EQ(run.program.code, 0) << run.program.err;
  ASSERT_EQ(run.lines.size(), 5u);
  for (size_t i : {0, 1, 3, 4}) EXPECT_EQ(run.lines[i]["usage"]["completion_tokens"], 3) << run.lines[i];
  EXPECT_THAT(run.lines[2]["error"]["message"].get<std::string>(), HasSubstr("line 3"));
}

TEST(Generate, ACommonBeginningIsComputedOnceUnlessTheSaltOrAFlagForbidsIt) {
  // Two documents of 80 tokens, questions in turns, one line of another tenant.
  std::string input;
  for (int line = 0; line < 8; ++line) {
    std::vector<int> prompt(80, 20 + line % 2);
    for (int i = 0; i < 80; ++i) prompt[i] += 7 * i % 400;
    prompt.push_back(100 + line);
    nlohmann::json request = {{"prompt", prompt}, {"max_tokens", 4}, {"ignore_eos", true}};
    if (line == 7) request["cache_salt"] = "other";
    absl::StrAppend(&input, request.dump(), "\n");
  }
  const GenerateRun on = RunGenerateProgram(0, kTiny, input, {"--block-tokens", "16"});
  const GenerateRun off =
      RunGenerateProgram(0, kTiny, input, {"--block-tokens", "16", "--prefix-cache", "off"});
  ASSERT_EQ(on.program.code, 0) << on.program.err;
  ASSERT_EQ(off.program.code, 0) << off.program.err;
  EXPECT_EQ(on.report["prefix_cache"]["hit_tokens"], 5 * 80);
  EXPECT_EQ(off.report["prefix_cache"]["hit_tokens"], 0);
  ASSERT_EQ(on.lines.size(), 8u);
  for (size_t i = 0; i < 8; ++i) {
    EXPECT_EQ(on.lines[i]["id"], absl::StrCat("line-", i + 1)) << "in the order of the input";
    EXPECT_EQ(on.lines[i]["token_ids"], off.lines[i]["token_ids"]) << i;
  }
}

TEST(Generate, APromptThatIsTooLongIsAnsweredWithBothNumbers) {
  nlohmann::json prompt = std::vector<int>(3000, 7);
  const std::string line = nlohmann::json{{"prompt", prompt}, {"max_tokens", 100}}.dump() + "\n";
  const GenerateRun memory = RunGenerateProgram(0, kTiny, line, {"--kv-tokens", "1024"});
  EXPECT_EQ(memory.program.code, 0);
  EXPECT_THAT(memory.lines[0]["error"]["message"].get<std::string>(),
              testing::AllOf(HasSubstr("3100 tokens"), HasSubstr("1024 tokens")));
  const GenerateRun context = RunGenerateProgram(0, kTiny, line, {"--max-model-len", "2048"});
  EXPECT_THAT(context.lines[0]["error"]["message"].get<std::string>(),
              testing::AllOf(HasSubstr("3100 tokens"), HasSubstr("2048 tokens")));
  const GenerateRun id = RunGenerateProgram(0, kTiny, "{\"prompt\": [1, 552]}\n", {});
  EXPECT_THAT(id.lines[0]["error"]["message"].get<std::string>(), HasSubstr("552"));
}

TEST(Generate, WhatIsWrongWithFilesIsExitCode1AndNamesThem) {
  const std::string line = "{\"prompt\": [5]}\n";
  EXPECT_EQ(RunGenerateProgram(0, "no/such/model", line, {}).program.code, 1);
  const std::string folder = NewFolder();
  std::filesystem::copy(kTiny, folder + "/model");
  std::filesystem::resize_file(folder + "/model/model.safetensors", 300000);
  const GenerateRun truncated = RunGenerateProgram(0, folder + "/model", line, {});
  EXPECT_EQ(truncated.program.code, 1);
  EXPECT_THAT(truncated.program.err, HasSubstr("model.safetensors"));
  WriteAll(folder + "/cluster.yaml", "instances:\n  - kv_tokens: 64\n    colour: red\n");
  const GenerateRun cluster = RunGenerateProgram(0, kTiny, line, {"--cluster", folder + "/cluster.yaml"});
  EXPECT_EQ(cluster.program.code, 1);
  EXPECT_THAT(cluster.program.err, testing::AllOf(HasSubstr("cluster.yaml:3"), HasSubstr("colour")));
  const ProgramResult full = RunProgram({LOMBARD_BINARY, "generate", "--model", kTiny, "--input",
                                         folder + "/cluster.yaml", "--output", "/dev/full"});
  EXPECT_EQ(full.code, 1);
  EXPECT_THAT(full.err, HasSubstr("/dev/full"));
  std::filesystem::remove_all(folder);
}

TEST(Generate, ResumeFinishesAHalfWrittenOutputWithTheSameTokens) {
  const std::string folder = NewFolder();
  std::string input;
  for (int i = 0; i < 6; ++i)
    absl::StrAppend(&input, "{\"id\": \"r", i, "\", \"prompt\": [549, ", 5 + i, "], \"max_tokens\": 5}\n");
  WriteAll(folder + "/in.jsonl", input);
  const auto run = [&](bool resume) {
    std::vector<std::string> argv = {LOMBARD_BINARY, "generate",           "--model",  kTiny,
                                     "--input",      folder + "/in.jsonl", "--output", folder + "/out.jsonl"};
    if (resume) argv.push_back("--resume");
    return RunProgram(argv).code;
  };
  const auto tokens = [&] {
    std::string all;
    std::stringstream lines(ReadAll(folder + "/out.jsonl"));
    for (std::string line; std::getline(lines, line);) {
      const auto json = nlohmann::json::parse(line);
      absl::StrAppend(&all, json["id"].dump(), json["token_ids"].dump(), "\n");
    }
    return all;
  };
  ASSERT_EQ(run(false), 0);
  const std::string whole = tokens(), text = ReadAll(folder + "/out.jsonl");
  WriteAll(folder + "/out.jsonl", text.substr(0, text.size() / 2));
  ASSERT_EQ(run(true), 0);
  EXPECT_EQ(tokens(), whole);
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace lombard
