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

// What runs, and what it is given. Four ranks.
struct Scenario {
  std::string binary, input, kv_tokens;
  std::vector<std::string> more_args = {};
  std::vector<json> undisturbed = {};  // the answers of one rank with all the memory
  double home_cpu_s = 0;               // what the home of an undisturbed run computes, by the last such run
};
// A killed process is noticed by its connection; nobody else is to be suspected on a busy machine.
const std::vector<std::string> kPatient = {"--dead-after", "10s"};

std::string Input(int long_tokens, int short_tokens) {
  const auto line = [](const char* id, std::vector<int> prompt, int max_tokens) {
    return json{{"id", id},
                {"prompt", prompt},
                {"max_tokens", max_tokens},
                {"ignore_eos", true},
                {"logprobs", 0}}
               .dump() +
           "\n";
  };
  return line("long", {549, 5, 6}, long_tokens) + line("a", {7, 8, 9}, short_tokens) +
         line("b", {70, 80, 90}, short_tokens);
}

// The process of this job with that rank: its environment tells. 0: not there.
pid_t PidOfRank(const std::string& binary, int rank, const std::string& run_dir) {
  DIR* proc = opendir("/proc");
  pid_t found = 0;
  while (const dirent* entry = readdir(proc)) {
    pid_t pid;
    if (!absl::SimpleAtoi(entry->d_name, &pid)) continue;
    const std::string environment = ReadAll(absl::StrCat("/proc/", pid, "/environ"));
    std::error_code error;
    const std::string program =
        std::filesystem::read_symlink(absl::StrCat("/proc/", pid, "/exe"), error).filename();
    if (program == std::filesystem::path(binary).filename() &&
        absl::StrContains(environment, absl::StrCat("OMPI_COMM_WORLD_RANK=", rank)) &&
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

// `disturb` gets the victim's pid when the home has computed for so long.
JobRun RunDisturbed(const Scenario& scenario, int victim, double home_cpu_s,
                    const std::function<void(pid_t)>& disturb,
                    const std::vector<std::string>& more_args = {}) {
  const std::string folder = NewFolder();
  WriteAll(folder + "/in.jsonl", scenario.input);
  JobRun run;
  std::atomic<bool> over{false};
  std::thread hand([&] {
    pid_t home = 0, pid = 0;
    const auto find = [&] {
      home = PidOfRank(scenario.binary, kHome, folder + "/run");
      pid = PidOfRank(scenario.binary, victim, folder + "/run");
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
                                      scenario.kv_tokens,
                                      "--block-tokens",
                                      "16",
                                      "--report",
                                      folder + "/report"};
  for (const auto* args : {&scenario.more_args, &more_args})
    command.insert(command.end(), args->begin(), args->end());
  const auto start = std::chrono::steady_clock::now();
  run.program =
      RunProgram(command, "", {{"LOMBARD_BINARY", scenario.binary}, {"LOMBARD_RUN_DIR", folder + "/run"}});
  run.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  over = true;
  hand.join();
  std::istringstream lines(ReadAll(folder + "/out.jsonl"));
  for (std::string line; std::getline(lines, line);) run.lines.push_back(json::parse(line, nullptr, false));
  run.report = json::parse(ReadAll(folder + "/report/report.json"), nullptr, false);
  std::filesystem::remove_all(folder);
  return run;
}

Scenario Prepared(Scenario scenario) {
  std::vector<std::string> args = {"--kv-tokens", "8192", "--block-tokens", "16"};
  args.insert(args.end(), scenario.more_args.begin(), scenario.more_args.end());
  scenario.undisturbed =
      RunGenerateProgram(1, "tests/data/tiny", scenario.input, args, scenario.binary).lines;
  scenario.home_cpu_s = RunDisturbed(
                            scenario, kHome, 1e9, [](pid_t) {}, kPatient)
                            .home_cpu_s;
  return scenario;
}

Scenario& OnCpus() {
  static Scenario scenario =
      Prepared({.binary = LOMBARD_BINARY, .input = Input(3800, 300), .kv_tokens = "320,2400,1600,2380"});
  return scenario;
}

// Short: an emulated GPU is slow.
Scenario& OnEmulatedGpus() {
  static Scenario scenario = Prepared({.binary = LOMBARD_EMULATED_BINARY,
                                       .input = Input(110, 6),
                                       .kv_tokens = "32,96,64,80",
                                       .more_args = {"--device", "cuda", "--max-batch-tokens", "48"}});
  return scenario;
}

// Equal tokens, or first different where both choices were as likely but for rounding.
void ExpectSameAnswers(const Scenario& scenario, const JobRun& run) {
  ASSERT_EQ(run.lines.size(), scenario.undisturbed.size());
  for (size_t i = 0; i < run.lines.size(); ++i) {
    const json &a = scenario.undisturbed[i], &b = run.lines[i];
    std::string why;
    ASSERT_NE(CompareAnswers(a, b, 0.001, &why), SameAnswer::kWrong) << "request " << i << ": " << why;
  }
}

// Until `happened` says that the run showed what it is about.
void RunUntil(Scenario& scenario, int victim, const std::function<void(pid_t)>& disturb,
              const std::vector<std::string>& more_args,
              const std::function<bool(const json& recovery)>& happened) {
  std::string seen;
  for (const double share : {0.8, 0.7, 0.9, 0.6, 0.75, 0.85}) {
    SCOPED_TRACE(testing::Message() << "after " << share << " of its work");
    const JobRun run = RunDisturbed(scenario, victim, share * scenario.home_cpu_s, disturb, more_args);
    if (!run.disturbed) scenario.home_cpu_s = run.home_cpu_s;
    ASSERT_EQ(run.program.code, 0) << run.program.err;
    ExpectSameAnswers(scenario, run);
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

bool LostASpan(const json& recovery) {
  return recovery["ranks_lost"] == 1 && recovery["lost_tokens"] > 0 && recovery["recomputed_tokens"] > 0 &&
         recovery["pause_s"]["count"] > 0;
}

TEST(Survival, AKilledCreditorCostsItsSpanAlone) {
  RunUntil(OnCpus(), kCreditor, kKill, kPatient, LostASpan);
}

TEST(Survival, AKilledCreditorWithAGpuCostsItsSpanAlone) {
  RunUntil(OnEmulatedGpus(), kCreditor, kKill, kPatient, LostASpan);
}

TEST(Survival, AKilledHomesRequestsAreReplayedElsewhereAndAdoptWhatItHadLent) {
  RunUntil(OnCpus(), kHome, kKill, kPatient, [](const json& recovery) {
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
  RunUntil(OnCpus(), kHome, stop, {"--dead-after", "700ms"}, [](const json& recovery) {
    return recovery["ranks_lost"] == 0 && recovery["fenced"] == 1 && recovery["requests_replayed"] > 0 &&
           recovery["stale_messages"] > 0;
  });
}

TEST(Survival, TheLossOfRankZeroEndsTheJobWithinSecondsWithAMessageAndAStatus) {
  JobRun run;
  for (int i = 0; i < 4 && !run.disturbed; ++i) {
    run = RunDisturbed(OnCpus(), 0, 0.5 * OnCpus().home_cpu_s, kKill);
    if (!run.disturbed) OnCpus().home_cpu_s = run.home_cpu_s;
  }
  ASSERT_TRUE(run.disturbed);
  EXPECT_NE(run.program.code, 0);
  // launch/run says so when it had to end ranks that did not end by themselves.
  EXPECT_FALSE(absl::StrContains(run.program.err, "ending the job")) << run.program.err;
}

}  // namespace
}  // namespace lombard
