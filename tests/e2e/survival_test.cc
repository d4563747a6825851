// Goal: kill -9 or SIGSTOP of a rank in the middle of decoding costs what it held and nothing else: every
// token is that of the undisturbed run, delivered once. The loss of rank 0 ends the job within seconds.
//
// Nobody outside can see where a job stands; how much its home has computed tells it best, on busy machines
// too. So each case is run a few times, with the loss at other shares of what an undisturbed home computes,
// until it fell into the decoding; what must always hold is checked every time.
#include <dirent.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <functional>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tests/e2e/generate_run.h"
#include "tests/support/same_answers.h"

namespace lombard {
namespace {

using nlohmann::json;

constexpr int kHome = 1;      // the largest pool: the router gives it the long request
constexpr int kCreditor = 3;  // of the others the one with most to lend
constexpr uint64_t kBlockTokens = 16;
// A killed process is noticed by its connection; nobody else is to be suspected on a busy machine.
const std::vector<std::string> kPatient = {"--dead-after", "10s"};
const char kInput[] =
    "{\"id\": \"long\", \"prompt\": [549, 5, 6], \"max_tokens\": 3800, \"ignore_eos\": true, \"logprobs\": "
    "0}\n"
    "{\"id\": \"a\", \"prompt\": [7, 8, 9], \"max_tokens\": 300, \"ignore_eos\": true, \"logprobs\": 0}\n"
    "{\"id\": \"b\", \"prompt\": [70, 80, 90], \"max_tokens\": 300, \"ignore_eos\": true, \"logprobs\": 0}\n";

// The process of this job with that rank: its environment tells. 0: not there.
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

// What the process has computed; 0 when it is gone.
double CpuSeconds(pid_t pid) {
  const std::string stat = ReadAll(absl::StrCat("/proc/", pid, "/stat"));
  const std::vector<std::string> fields =
      absl::StrSplit(stat.substr(std::min(stat.size(), stat.rfind(')'))), ' ');
  double ticks = 0, more = 0;
  if (fields.size() < 14 || !absl::SimpleAtod(fields[12], &ticks) || !absl::SimpleAtod(fields[13], &more))
    return 0;
  return (ticks + more) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

struct JobRun {
  ProgramResult program;
  double home_cpu_s = 0;  // so much, at least, had its home computed at the end
  bool disturbed = false;
  double seconds = 0;
  std::vector<json> lines;
  json report;
};

// Four ranks; `disturb` gets the victim's pid when the home has computed for so long.
JobRun RunDisturbed(int victim, double home_cpu_s, const std::function<void(pid_t)>& disturb,
                    const std::vector<std::string>& more_args = {}) {
  const std::string folder = NewFolder();
  WriteAll(folder + "/in.jsonl", kInput);
  JobRun run;
  std::atomic<bool> over{false};
  std::thread hand([&] {
    pid_t home = 0, pid = 0;
    const auto find = [&] {
      home = PidOfRank(kHome, folder + "/run");
      pid = PidOfRank(victim, folder + "/run");
      return home != 0 && pid != 0;
    };
    while (!over && !find()) std::this_thread::sleep_for(std::chrono::milliseconds(25));
    while (!over) {
      const double seconds = CpuSeconds(home);
      run.home_cpu_s = std::max(run.home_cpu_s, seconds);
      if (!run.disturbed && seconds >= home_cpu_s) run.disturbed = true, disturb(pid);
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  });
  std::vector<std::string> command = {"launch/run",
                                      "-n",
                                      "4",
                                      "--grace",
                                      "60",
                                      "generate",
                                      "--model",
                                      "tests/data/tiny",
                                      "--input",
                                      folder + "/in.jsonl",
                                      "--output",
                                      folder + "/out.jsonl",
                                      "--kv-tokens",
                                      "320,2400,1600,2380",
                                      "--block-tokens",
                                      "16",
                                      "--report",
                                      folder + "/report"};
  command.insert(command.end(), more_args.begin(), more_args.end());
  const auto start = std::chrono::steady_clock::now();
  run.program =
      RunProgram(command, "", {{"LOMBARD_BINARY", LOMBARD_BINARY}, {"LOMBARD_RUN_DIR", folder + "/run"}});
  run.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  over = true;
  hand.join();
  std::istringstream lines(ReadAll(folder + "/out.jsonl"));
  for (std::string line; std::getline(lines, line);) run.lines.push_back(json::parse(line, nullptr, false));
  run.report = json::parse(ReadAll(folder + "/report/report.json"), nullptr, false);
  std::filesystem::remove_all(folder);
  return run;
}

// One rank with all the memory.
const std::vector<json>& Undisturbed() {
  static const std::vector<json> lines =
      RunGenerateProgram(1, "tests/data/tiny", kInput, {"--kv-tokens", "8192", "--block-tokens", "16"}).lines;
  return lines;
}

// What the home of an undisturbed run computes, by the last such run.
double& HomeCpuSeconds() {
  static double seconds = RunDisturbed(
                              kHome, 1e9, [](pid_t) {}, kPatient)
                              .home_cpu_s;
  return seconds;
}

// Equal tokens, or first different where both choices were as likely but for rounding.
void ExpectSameAnswers(const JobRun& run) {
  ASSERT_EQ(run.lines.size(), Undisturbed().size());
  for (size_t i = 0; i < run.lines.size(); ++i) {
    const json &a = Undisturbed()[i], &b = run.lines[i];
    std::string why;
    ASSERT_NE(CompareAnswers(a, b, 0.001, &why), SameAnswer::kWrong) << "request " << i << ": " << why;
  }
}

// Until `happened` says that the run showed what it is about.
void RunUntil(int victim, const std::function<void(pid_t)>& disturb,
              const std::vector<std::string>& more_args,
              const std::function<bool(const json& recovery)>& happened) {
  std::string seen;
  for (const double share : {0.8, 0.7, 0.9, 0.6, 0.75, 0.85}) {
    SCOPED_TRACE(testing::Message() << "after " << share << " of its work");
    const JobRun run = RunDisturbed(victim, share * HomeCpuSeconds(), disturb, more_args);
    if (!run.disturbed) HomeCpuSeconds() = run.home_cpu_s;
    ASSERT_EQ(run.program.code, 0) << run.program.err;
    ExpectSameAnswers(run);
    if (testing::Test::HasFatalFailure()) return;
    const json& recovery = run.report["recovery"];
    // Each sequence may have computed a part of a block at the place of the loss.
    const uint64_t lost = recovery["lost_tokens"].get<uint64_t>() +
                          recovery["replayed_tokens"].get<uint64_t>() -
                          recovery["adopted_tokens"].get<uint64_t>();
    EXPECT_LE(recovery["recomputed_tokens"], lost + 3 * kBlockTokens) << recovery;
    absl::StrAppend(&seen, "\n  after ", share, " of the work, ", run.seconds, " s: ", recovery.dump());
    if (happened(recovery)) return;
  }
  FAIL() << "the rank was never lost in the middle of decoding:" << seen;
}

const auto kKill = [](pid_t pid) { kill(pid, SIGKILL); };

TEST(Survival, AKilledCreditorCostsItsSpanAlone) {
  RunUntil(kCreditor, kKill, kPatient, [](const json& recovery) {
    return recovery["ranks_lost"] == 1 && recovery["lost_tokens"] > 0 && recovery["recomputed_tokens"] > 0 &&
           recovery["pause_s"]["count"] > 0;
  });
}

TEST(Survival, AKilledHomesRequestsAreReplayedElsewhereAndAdoptWhatItHadLent) {
  RunUntil(kHome, kKill, kPatient, [](const json& recovery) {
    return recovery["ranks_lost"] == 1 && recovery["requests_replayed"] > 0 &&
           recovery["adopted_tokens"] > 0 && recovery["pause_s"]["count"] > 0;
  });
}

TEST(Survival, AStoppedRankIsFencedAndComesBackAsANewIncarnation) {
  const auto stop = [](pid_t pid) {
    kill(pid, SIGSTOP);
    std::this_thread::sleep_for(
        std::chrono::milliseconds(1200));  // back before the others have done its work
    kill(pid, SIGCONT);
  };
  RunUntil(kHome, stop, {"--dead-after", "700ms"}, [](const json& recovery) {
    return recovery["ranks_lost"] == 0 && recovery["fenced"] == 1 && recovery["requests_replayed"] > 0 &&
           recovery["stale_messages"] > 0;
  });
}

TEST(Survival, TheLossOfRankZeroEndsTheJobWithinSecondsWithAMessageAndAStatus) {
  JobRun run;
  for (int i = 0; i < 4 && !run.disturbed; ++i) {
    run = RunDisturbed(0, 0.5 * HomeCpuSeconds(), kKill);
    if (!run.disturbed) HomeCpuSeconds() = run.home_cpu_s;
  }
  ASSERT_TRUE(run.disturbed);
  EXPECT_NE(run.program.code, 0);
  // launch/run says so when it had to end ranks that did not end by themselves.
  EXPECT_FALSE(absl::StrContains(run.program.err, "ending the job")) << run.program.err;
}

}  // namespace
}  // namespace lombard
