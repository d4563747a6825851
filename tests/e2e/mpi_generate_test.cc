// Goal: the main job under mpirun with real transports: 1, 2 and 4 ranks give the golden tokens and agree on
// log-probabilities, with ample and with tiny uneven budgets; a rank that dies ends the job within seconds,
// with a message and a status.
#include <dirent.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <cmath>
#include <filesystem>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "tests/e2e/generate_run.h"
#include "tests/support/shared_data.h"

namespace lombard {
namespace {

void ExpectSameLogprobs(const GenerateRun& a, const GenerateRun& b, double tolerance,
                        const std::string& where) {
  for (size_t i = 0; i < a.lines.size(); ++i) {
    const std::vector<int32_t> ids_a = a.lines[i]["token_ids"], ids_b = b.lines[i]["token_ids"];
    const std::vector<double> p = a.lines[i]["logprobs"]["token_logprobs"],
                              q = b.lines[i]["logprobs"]["token_logprobs"];
    ASSERT_EQ(p.size(), ids_a.size());
    for (size_t t = 0; t < p.size() && ids_a[t] == ids_b[t]; ++t) {
      ASSERT_NEAR(p[t], q[t], tolerance) << where << ", request " << i << ", token " << t;
    }
  }
}

struct Checkpoint {
  const char *name, *model, *goldens, *tiny_budget_2, *tiny_budget_4;
  double bound;
};

class MpiGoldens : public testing::TestWithParam<Checkpoint> {};

TEST_P(MpiGoldens, AreGivenByAnyNumberOfRanksWithTheSameLogprobs) {
  const Checkpoint& c = GetParam();
  if (IsSharedPath(c.goldens)) LOMBARD_SKIP_WITHOUT(c.goldens);
  if (IsSharedPath(c.model)) LOMBARD_SKIP_WITHOUT(c.model);
  const std::vector<GoldenCase> goldens = ReadGoldens(c.goldens);
  const std::string folder = NewFolder(), cluster = folder + "/cluster.yaml";
  WriteAll(cluster, "lending: {reserve: 0%, lent_max: 100%}\n");
  const GenerateRun alone =
      RunGenerateProgram(1, c.model, GoldenInput(goldens), {"--kv-tokens", "8192", "--block-tokens", "16"});
  EXPECT_EQ(GoldenMismatches(goldens, alone, c.bound), "") << c.goldens << ", one rank";
  for (const auto& [ranks, budget] :
       {std::pair<int, const char*>{2, "8192"}, {4, "8192"}, {2, c.tiny_budget_2}, {4, c.tiny_budget_4}}) {
    const std::string where = absl::StrCat(c.goldens, ", ", ranks, " ranks, ", budget);
    const GenerateRun run =
        RunGenerateProgram(ranks, c.model, GoldenInput(goldens),
                           {"--kv-tokens", budget, "--block-tokens", "16", "--cluster", cluster});
    ASSERT_EQ(GoldenMismatches(goldens, run, c.bound), "") << where;
    const double between = std::min(c.bound, 0.05);  // between rank counts
    ExpectSameLogprobs(alone, run, c.bound < 0.01 ? 1e-3 : 0.05, where);
    std::vector<GoldenCase> as_alone = goldens;
    for (size_t i = 0; i < goldens.size(); ++i)
      as_alone[i].greedy_ids = alone.lines[i]["token_ids"].get<std::vector<int32_t>>();
    EXPECT_EQ(GoldenMismatches(as_alone, run, between), "") << where << ", against one rank";
    EXPECT_EQ(run.report["loans"]["granted"], run.report["loans"]["repaid"]) << where;
  }
  std::filesystem::remove_all(folder);
}

INSTANTIATE_TEST_SUITE_P(
    All, MpiGoldens,
    testing::Values(Checkpoint{"tiny", "tests/data/tiny", "tests/data/tiny-golden.json", "640,960",
                               "320,640,320,320", 0.001},
                    Checkpoint{"tiny_bf16", "tests/data/tiny-bf16", "tests/data/tiny-bf16-golden.json",
                               "640,960", "320,640,320,320", 0.15},
                    Checkpoint{"stories260K_batch64", "../shared/data/models/stories260K-hf",
                               "../shared/data/models/stories260K-golden-batch64.jsonl", "128,96",
                               "32,96,64,64", 0.001},
                    Checkpoint{"stories260K_bf16", "../shared/data/models/stories260K-hf-bf16-sharded",
                               "../shared/data/models/stories260K-bf16-golden.json", "128,96", "32,96,64,64",
                               0.15}),
    [](const auto& info) { return info.param.name; });

TEST(MpiGenerate, WithATinyHomeTheCreditorsAttendAtLeastHalfOfTheDecodeSteps) {
  const std::vector<GoldenCase> goldens = ReadGoldens("tests/data/tiny-golden.json");
  const std::vector<GoldenCase> longest = {goldens[6]};  // 1437 tokens: every home must borrow most
  const GenerateRun run = RunGenerateProgram(4, "tests/data/tiny", GoldenInput(longest),
                                             {"--kv-tokens", "480,512,480,480", "--block-tokens", "16"});
  ASSERT_EQ(GoldenMismatches(longest, run, 0.001), "");
  uint64_t served_max = 0;
  for (const auto& rank : run.report["ranks"])
    served_max = std::max(served_max, rank["served_steps"].get<uint64_t>());
  EXPECT_GE(served_max, longest[0].greedy_ids.size() / 2);
  EXPECT_GE(run.report["remote_steps"], longest[0].greedy_ids.size() / 2);
}

// The process of this job with that rank: its environment tells.
pid_t PidOfRank(int rank, const std::string& run_dir) {
  DIR* proc = opendir("/proc");
  pid_t found = 0;
  while (const dirent* entry = readdir(proc)) {
    pid_t pid;
    if (!absl::SimpleAtoi(entry->d_name, &pid)) continue;
    const std::string environment = ReadAll(absl::StrCat("/proc/", pid, "/environ"));
    std::error_code error;
    const std::string program =
        std::filesystem::read_symlink(absl::StrCat("/proc/", pid, "/exe"), error).filename();
    if (program == "lombard" && absl::StrContains(environment, absl::StrCat("OMPI_COMM_WORLD_RANK=", rank)) &&
        absl::StrContains(environment, run_dir)) {
      found = pid;
    }
  }
  closedir(proc);
  return found;
}

TEST(MpiGenerate, ADeadRankEndsTheJobWithinSecondsWithAMessageAndAStatus) {
  const std::string folder = NewFolder();
  WriteAll(folder + "/in.jsonl", "{\"prompt\": [549, 5, 6], \"max_tokens\": 3900, \"ignore_eos\": true}\n");
  for (const int victim : {2, 0}) {
    const std::string run_dir = absl::StrCat(folder, "/run", victim);
    std::thread killer([&] {
      pid_t pid = 0;
      for (int i = 0; i < 400 && (pid = PidOfRank(victim, run_dir)) == 0; ++i)
        std::this_thread::sleep_for(std::chrono::milliseconds(25));
      std::this_thread::sleep_for(std::chrono::milliseconds(700));  // into the decoding
      if (pid != 0) kill(pid, SIGKILL);
    });
    const auto start = std::chrono::steady_clock::now();
    const ProgramResult program = RunProgram(
        {"launch/run", "-n", "4", "generate", "--model", "tests/data/tiny", "--input", folder + "/in.jsonl",
         "--output", folder + "/out.jsonl", "--kv-tokens", "2048", "--block-tokens", "16"},
        "", {{"LOMBARD_BINARY", LOMBARD_BINARY}, {"LOMBARD_RUN_DIR", run_dir}});
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    killer.join();
    EXPECT_NE(program.code, 0) << "rank " << victim;
    EXPECT_LT(seconds, 45) << "rank " << victim;
    if (victim != 0) {
      EXPECT_THAT(program.err, testing::HasSubstr(absl::StrCat("rank ", victim, " is lost"))) << program.out;
    }
  }
  std::filesystem::remove_all(folder);
}

TEST(MpiGenerate, AStoppedRankIsFoundByItsSilence) {
  const std::string folder = NewFolder();
  WriteAll(folder + "/in.jsonl", "{\"prompt\": [549, 5, 6], \"max_tokens\": 3900, \"ignore_eos\": true}\n");
  pid_t stopped = 0;
  std::thread stopper([&] {
    for (int i = 0; i < 400 && (stopped = PidOfRank(2, folder)) == 0; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(25));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(700));
    if (stopped != 0) kill(stopped, SIGSTOP);
  });
  // A rank that does not even hear that the job is over is ended by launch/run after the grace.
  const ProgramResult program = RunProgram(
      {"launch/run", "-n", "3", "--grace", "3", "generate", "--model", "tests/data/tiny", "--input",
       folder + "/in.jsonl", "--output", folder + "/out.jsonl", "--kv-tokens", "2048", "--dead-after", "2s"},
      "", {{"LOMBARD_BINARY", LOMBARD_BINARY}, {"LOMBARD_RUN_DIR", folder + "/run"}});
  stopper.join();
  if (stopped != 0) kill(stopped, SIGKILL);
  EXPECT_NE(program.code, 0);
  EXPECT_THAT(program.err, testing::HasSubstr("rank 2 has been silent for more than 2s")) << program.out;
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace lombard
