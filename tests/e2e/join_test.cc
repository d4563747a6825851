// Goal: a worker joins a running job through rank 0's port, is used, and leaves when it is told to; every
// token is that of one rank with all the memory. Who has no business there is refused by name.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "fabric/enter_reception.h"
#include "fabric/join_desk.h"
#include "fabric/messages/protocol.h"
#include "tests/e2e/generate_run.h"
#include "tests/support/child_process.h"
#include "tests/support/free_port.h"
#include "tests/support/same_answers.h"
#include "tests/support/temp_dir.h"

namespace lombard {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;

// Short ones that keep the job alive, and one that only three ranks together can hold.
std::string Input(int count, int the_long_one) {
  std::string input;
  for (int i = 0; i < count; ++i) {
    json line = {{"id", i}, {"ignore_eos", true}, {"logprobs", 0}, {"max_tokens", 60}};
    line["prompt"] = json::array({7 + i % 400, 8, 9});
    if (i == the_long_one) {
      line["prompt"] = std::vector<int32_t>(1500, 500);
      line["max_tokens"] = 100;
    }
    absl::StrAppend(&input, line.dump(), "\n");
  }
  return input;
}

struct Job {
  TempDir folder;
  std::string place = absl::StrCat("127.0.0.1:", FreePort());
  std::vector<std::unique_ptr<ChildProcess>> ranks;

  std::string Log(const std::string& name) const { return ReadAll(folder / (name + ".log")); }
  ChildProcess& Start(const std::string& name, const std::vector<std::string>& more,
                      const std::string& model = "tests/data/tiny") {
    std::vector<std::string> command = {LOMBARD_BINARY,
                                        "generate",
                                        "--model",
                                        model,
                                        "--input",
                                        folder / "in.jsonl",
                                        "--output",
                                        folder / "out.jsonl",
                                        "--kv-tokens",
                                        "800",
                                        "--block-tokens",
                                        "16",
                                        "--threads",
                                        "1",
                                        "--rendezvous",
                                        place,
                                        "--cluster-key-file",
                                        folder / "key",
                                        "--start-timeout",
                                        "30s"};
    command.insert(command.end(), more.begin(), more.end());
    ranks.push_back(std::make_unique<ChildProcess>(command, folder / (name + ".log")));
    return *ranks.back();
  }
  bool WaitForLog(const std::string& name, const std::string& what) const {
    for (const absl::Time end = absl::Now() + absl::Seconds(40); absl::Now() < end;
         absl::SleepFor(absl::Milliseconds(20))) {
      if (Log(name).find(what) != std::string::npos) return true;
    }
    return false;
  }
  bool WaitForAnswers(int count) const {
    for (const absl::Time end = absl::Now() + absl::Seconds(120); absl::Now() < end;
         absl::SleepFor(absl::Milliseconds(20))) {
      const std::string output = ReadAll(folder / "out.jsonl");
      if (std::count(output.begin(), output.end(), '\n') >= count) return true;
    }
    return false;
  }
  explicit Job(const std::string& input) {
    WriteAll(folder / "in.jsonl", input);
    WriteKey("key", "a secret that all ranks of this job share");
  }
  void WriteKey(const std::string& name, const std::string& secret) {
    WriteAll(folder / name, secret);
    std::filesystem::permissions(folder / name, std::filesystem::perms::owner_read);
  }
};

void ExpectSameAnswers(const std::vector<json>& right, const std::string& output) {
  std::istringstream file(output);
  size_t i = 0;
  for (std::string text, why; std::getline(file, text); ++i) {
    ASSERT_LT(i, right.size());
    EXPECT_NE(CompareAnswers(right[i], json::parse(text, nullptr, false), 0.001, &why), SameAnswer::kWrong)
        << "request " << i << ": " << why;
  }
  EXPECT_EQ(i, right.size());
}

TEST(Join, AWorkerJoinsIsUsedAndLeaves) {
  constexpr int kLong = 60;  // comes after five seconds
  const std::string input = Input(100, kLong);
  const std::vector<json> right =
      RunGenerateProgram(0, "tests/data/tiny", input, {"--kv-tokens", "4000", "--block-tokens", "16"}).lines;
  ASSERT_EQ(right.size(), 100u);
  Job job(input);
  ChildProcess& zero = job.Start("zero", {"--rank", "0", "--size", "2", "--size-max", "3", "--rate", "12",
                                          "--report", job.folder / "report"});
  job.Start("one", {"--rank", "1", "--size", "2", "--size-max", "3"});
  ASSERT_TRUE(job.WaitForAnswers(1)) << job.Log("zero");
  ChildProcess& joiner = job.Start("joiner", {"--join"});
  ASSERT_TRUE(job.WaitForLog("joiner", "as rank 2")) << job.Log("joiner");
  // Who has no business here is told why, by name, with both values and the remedy; rank 0 says it too.
  job.WriteKey("other", "another secret that is as long");
  {
    ChildProcess& wrong = job.Start("wrong_key", {"--join", "--cluster-key-file", job.folder / "other"});
    EXPECT_EQ(wrong.Wait(absl::Seconds(20)), 1);
    EXPECT_THAT(job.Log("wrong_key"), AllOf(HasSubstr("cluster key "), HasSubstr("is not that of the job at"),
                                            HasSubstr(job.place), HasSubstr("--cluster-key-file")));
    ChildProcess& model = job.Start("wrong_model", {"--join"}, "tests/data/tiny-bf16");
    EXPECT_EQ(model.Wait(absl::Seconds(20)), 1);
    EXPECT_THAT(job.Log("wrong_model"),
                AllOf(HasSubstr("model fingerprint "), HasSubstr("rank 0 has"), HasSubstr("--model")));
    const auto key = ClusterKey::Load(job.folder / "key");
    ASSERT_TRUE(key.ok()) << key.status();
    const auto version =
        JobEntry::Enter({.key = *key, .protocol = kProtocolVersion + 1, .job = "", .place = job.place},
                        absl::Now() + absl::Seconds(10));
    EXPECT_THAT(std::string(version.status().message()),
                AllOf(HasSubstr(absl::StrCat("protocol version ", kProtocolVersion + 1)),
                      HasSubstr(absl::StrCat("which is ", kProtocolVersion)), HasSubstr("same build")));
    ChildProcess& taken = job.Start("taken", {"--join", "--rank", "1"});
    EXPECT_EQ(taken.Wait(absl::Seconds(20)), 1);
    EXPECT_THAT(job.Log("taken"), HasSubstr("rank 1 is taken"));
    const std::string said = job.Log("zero");
    for (const char* what :
         {"refused: cluster key ", "model fingerprint ", "protocol version ", "rank 1 is taken"})
      EXPECT_THAT(said, HasSubstr(what));
  }

  EXPECT_TRUE(job.WaitForAnswers(kLong + 1)) << job.Log("zero");
  joiner.Signal(SIGTERM);
  EXPECT_EQ(joiner.Wait(absl::Seconds(40)), 0) << job.Log("joiner");
  EXPECT_FALSE(zero.Wait(absl::ZeroDuration()).has_value()) << "it left a job that ran";
  EXPECT_EQ(zero.Wait(absl::Seconds(60)), 0) << job.Log("zero");
  EXPECT_EQ(job.ranks[1]->Wait(absl::Seconds(10)), 0) << job.Log("one");

  ExpectSameAnswers(right, ReadAll(job.folder / "out.jsonl"));
  const json report = json::parse(ReadAll(job.folder / "report/report.json"), nullptr, false);
  const json& recovery = report["recovery"];
  EXPECT_EQ(recovery["ranks_joined"], 1) << recovery;
  EXPECT_EQ(recovery["ranks_left"], 1) << recovery;
  EXPECT_EQ(recovery["ranks_lost"], 0) << recovery;
  EXPECT_EQ(recovery["fenced"], 0) << recovery;
  EXPECT_EQ(report["ranks"].size(), 3u);
  const json& kv = report["ranks"][2]["kv_tokens"];
  EXPECT_GT(kv["lent_max"].get<int>() + kv["borrowed_max"].get<int>(), 0) << kv;
  EXPECT_EQ(report["loans"]["granted"],
            report["loans"]["repaid"].get<uint64_t>() + report["loans"]["lost"].get<uint64_t>());
  std::set<int> workers;
  for (const json& entry : report["timeline"]) workers.insert(entry["workers"].get<int>());
  EXPECT_TRUE(workers.contains(3) && workers.contains(2)) << report["timeline"];
}

TEST(Join, ATerminatedRankZeroEndsTheJobInOrderAndResumeGoesOn) {
  const std::string input = Input(60, /*the_long_one=*/-1);
  const std::vector<json> right =
      RunGenerateProgram(0, "tests/data/tiny", input, {"--kv-tokens", "4000", "--block-tokens", "16"}).lines;
  Job job(input);
  ChildProcess& zero = job.Start("zero", {"--rank", "0", "--size", "2", "--rate", "15"});
  ChildProcess& one = job.Start("one", {"--rank", "1", "--size", "2"});
  ASSERT_TRUE(job.WaitForAnswers(1)) << job.Log("zero");
  zero.Signal(SIGTERM);
  EXPECT_EQ(zero.Wait(absl::Seconds(20)), 1);
  EXPECT_EQ(one.Wait(absl::Seconds(10)), 0) << job.Log("one");
  EXPECT_THAT(job.Log("zero"), AllOf(HasSubstr("stopped by SIGTERM"), HasSubstr("--resume")));
  const std::string before = ReadAll(job.folder / "out.jsonl");
  EXPECT_GT(before.size(), 0u);
  EXPECT_LT(std::count(before.begin(), before.end(), '\n'), 60);
  ChildProcess& again = job.Start("again", {"--rank", "0", "--size", "1", "--resume"});
  EXPECT_EQ(again.Wait(absl::Seconds(40)), 0) << job.Log("again");
  ExpectSameAnswers(right, ReadAll(job.folder / "out.jsonl"));
}

}  // namespace
}  // namespace lombard
