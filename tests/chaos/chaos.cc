// Chaos on real processes: a job under load whose ranks, but rank 0, are killed, stopped, told to leave,
// started again and cut off every few seconds, and whose answers must be those of an undisturbed run.
//
//   lombard-chaos --seconds 20                                    # four ranks on this host
//   lombard-chaos --seconds 1800 --rate 2 --seed 7                # for long
//   lombard-chaos --hosts --actions cut                           # each rank on a fake host (root)
//   lombard-chaos --hosts --actions pair --long-output 1200
//
// Ranks meet at rank 0's port, without a launcher; who ended is started again and joins (--join), as a
// supervisor would do it. --hosts makes a network namespace with a name of its own for each rank, on one
// bridge; `cut` takes a host's link away for 5 s, `pair` isolates the ports of two hosts from each other.
//
// Exit 0: rank 0 ended with 0, every request has one answer, the tokens are those of one rank with all the
// memory (equal, or first different where both choices were as likely but for rounding), rank 0's memory
// stayed flat.
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "tests/support/child_process.h"
#include "tests/support/free_port.h"
#include "tests/support/temp_dir.h"

namespace lombard {
namespace {

using nlohmann::json;

struct Settings {
  std::string lombard, model = "tests/data/tiny", prompts;
  int ranks = 4, requests = 0;
  double seconds = 20, rate = 3, bound = 0.001;
  uint64_t seed = 0;
  std::string actions = "kill,stop,leave";
  uint32_t kv_tokens = 1200, long_tokens = 1500, long_output = 300;
  bool hosts = false;
};

// Each rank's fake host: a network namespace, and a link to one bridge.
class FakeHosts {
 public:
  explicit FakeHosts(int count) : count_(count) {
    Remove();  // what a run that was killed left
    Must("ip link add lbr type bridge");
    Must("ip link set lbr up");
    for (int i = 0; i < count; ++i) {
      Must(absl::StrCat("ip netns add lh", i));
      Must(absl::StrCat("ip link add lv", i, " type veth peer name eth0 netns lh", i));
      Must(absl::StrCat("ip link set lv", i, " master lbr up"));
      Must(absl::StrCat("ip -n lh", i, " addr add ", Address(i), "/24 dev eth0"));
      Must(absl::StrCat("ip -n lh", i, " link set eth0 up"));
      Must(absl::StrCat("ip -n lh", i, " link set lo up"));
    }
  }
  ~FakeHosts() { Remove(); }
  static std::string Address(int i) { return absl::StrCat("10.78.0.", i + 1); }
  static std::vector<std::string> In(int i, std::vector<std::string> argv) {
    std::vector<std::string> out = {"ip",
                                    "netns",
                                    "exec",
                                    absl::StrCat("lh", i),
                                    "unshare",
                                    "--uts",
                                    "sh",
                                    "-c",
                                    absl::StrCat("hostname lh", i, "; exec \"$@\""),
                                    "sh"};
    out.insert(out.end(), argv.begin(), argv.end());
    return out;
  }
  static void Link(int i, bool up) { Must(absl::StrCat("ip link set lv", i, up ? " up" : " down")); }
  static void Isolate(int i, bool on) {
    Must(absl::StrCat("bridge link set dev lv", i, " isolated ", on ? "on" : "off"));
  }

 private:
  void Remove() {
    for (int i = 0; i < count_; ++i) {
      Try(absl::StrCat("ip link del lv", i));
      Try(absl::StrCat("ip netns del lh", i));
    }
    Try("ip link del lbr");
  }
  static bool Try(const std::string& command) { return system((command + " 2> /dev/null").c_str()) == 0; }
  static void Must(const std::string& command) {
    CHECK(Try(command)) << command << " failed (are you root?)";
  }
  const int count_;
};

uint64_t ResidentBytes(pid_t pid) {
  uint64_t size = 0, resident = 0;
  std::ifstream(absl::StrCat("/proc/", pid, "/statm")) >> size >> resident;
  return resident * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

class Chaos {
 public:
  explicit Chaos(const Settings& settings) : s_(settings), random_(settings.seed), folder_(new TempDir) {
    if (s_.hosts) hosts_ = std::make_unique<FakeHosts>(s_.ranks);
    place_ = absl::StrCat(s_.hosts ? FakeHosts::Address(0) : "127.0.0.1", ":", FreePort());
    start_ = absl::Now();
  }

  bool Run() {
    WriteInput();
    if (!Undisturbed()) return false;
    for (int rank = 0; rank < s_.ranks; ++rank) Start(rank, /*joins=*/false);
    start_ = absl::Now();
    const absl::Time end = start_ + absl::Seconds(s_.seconds);
    const absl::Time last = end + absl::Seconds(s_.seconds + 120);
    absl::Time next_action = start_ + absl::Seconds(2), next_sample = start_;
    while (!ranks_[0].process->Wait(absl::Milliseconds(50)).has_value()) {
      const absl::Time now = absl::Now();
      if (now > last) return Fail("rank 0 does not end");
      DoDue(now);
      Supervise(now);
      if (now >= next_sample) Sample(now), next_sample = now + absl::Seconds(std::max(1.0, s_.seconds / 200));
      if (now < next_action || now > end) continue;
      next_action = now + absl::Milliseconds(Between(800, 4000));
      Act(now);
    }
    const int code = *ranks_[0].process->Wait(absl::ZeroDuration());
    for (auto& [when, what] : later_) what();  // links are up again
    later_.clear();
    Say(absl::StrCat("rank 0 has ended with ", code));
    for (int rank = 1; rank < s_.ranks; ++rank) {
      if (!ranks_[rank].process->Wait(absl::Seconds(15)).has_value())
        Say(absl::StrCat("rank ", rank, " still runs"));
    }
    if (code != 0) return Fail("rank 0 failed");
    return Compare() & CheckMemory();
  }

  ~Chaos() {
    ranks_.clear();
    if (!failed_) return;
    const std::string kept = absl::StrCat("/tmp/lombard-chaos.", getpid());
    std::error_code ignored;
    std::filesystem::copy(folder_->path(), kept, std::filesystem::copy_options::recursive, ignored);
    std::printf("files of the run: %s\n", kept.c_str());
  }

 private:
  struct Rank {
    std::unique_ptr<ChildProcess> process;
    std::optional<absl::Time> restart;  // when the next one is to start
    bool stopped = false;
  };

  uint64_t Between(uint64_t low, uint64_t high) { return low + random_() % (high - low + 1); }
  void Say(const std::string& what) {
    std::printf("%7.2f  %s\n", absl::ToDoubleSeconds(absl::Now() - start_), what.c_str());
    std::fflush(stdout);
  }
  bool Fail(const std::string& what) {
    Say(absl::StrCat("FAILED: ", what));
    failed_ = true;
    return false;
  }

  // Prompts of a file, or random ids; a few are longer than a rank's memory.
  void WriteInput() {
    std::vector<json> prompts;
    if (!s_.prompts.empty()) {
      std::ifstream file(s_.prompts);
      for (std::string line; std::getline(file, line);) {
        const json parsed = json::parse(line, nullptr, false);
        if (parsed.is_object() && parsed.contains("prompt")) prompts.push_back(parsed["prompt"]);
      }
      CHECK(!prompts.empty()) << s_.prompts;
    }
    s_.requests = std::max(4, static_cast<int>(s_.seconds * s_.rate));
    std::ofstream input(*folder_ / "in.jsonl");
    for (int i = 0; i < s_.requests; ++i) {
      json line = {{"id", i}, {"ignore_eos", true}, {"logprobs", 0}, {"temperature", 0}};
      const bool is_long = i % 8 == 0;
      line["max_tokens"] = is_long ? Between(s_.long_output / 2, s_.long_output) : Between(10, 80);
      if (!prompts.empty()) {
        line["prompt"] = prompts[random_() % prompts.size()];
      } else {
        line["prompt"] = json::array();
        for (uint64_t t = is_long ? s_.long_tokens : Between(5, 200); t > 0; --t)
          line["prompt"].push_back(Between(5, 500));
      }
      input << line.dump() << "\n";
    }
    std::ofstream(*folder_ / "key") << "the secret of the chaos run\n";
    std::filesystem::permissions(*folder_ / "key", std::filesystem::perms::owner_read);
  }

  std::vector<std::string> Command(const std::string& output) const {
    return {s_.lombard, "generate",        "--model",        s_.model, "--input",   *folder_ / "in.jsonl",
            "--output", *folder_ / output, "--block-tokens", "16",     "--threads", "1"};
  }

  bool Undisturbed() {
    std::vector<std::string> command = Command("right.jsonl");
    command.insert(command.end(), {"--kv-tokens", absl::StrCat(s_.kv_tokens * s_.ranks)});
    ChildProcess process(command, *folder_ / "right.log");
    const auto code = process.Wait(absl::Seconds(60 + s_.seconds));
    if (code == 0) return true;
    return Fail(absl::StrCat("the undisturbed run ended with ", code.value_or(-1), ": see right.log"));
  }

  std::string Pools() const {
    std::string pools = absl::StrCat(s_.kv_tokens / 3);
    for (int rank = 1; rank < s_.ranks; ++rank) absl::StrAppend(&pools, ",", s_.kv_tokens);
    return pools;
  }

  void Start(int rank, bool joins) {
    std::vector<std::string> command = Command("out.jsonl");
    command.insert(command.end(), {"--rendezvous", place_, "--cluster-key-file", *folder_ / "key",
                                   "--kv-tokens", Pools(), "--dead-after", "1s", "--start-timeout", "30s",
                                   "--drain-wait", "5s", "--rank", absl::StrCat(rank)});
    if (joins) {
      command.push_back("--join");
    } else {
      command.insert(command.end(), {"--size", absl::StrCat(s_.ranks), "--report", *folder_ / "report",
                                     "--rate", absl::StrCat(s_.rate)});
    }
    if (s_.hosts) command = FakeHosts::In(rank, command);
    ranks_[rank] = {
        .process = std::make_unique<ChildProcess>(command, *folder_ / absl::StrCat("rank.", rank, ".log")),
        .restart = std::nullopt};
  }

  // Who has ended is started again.
  void Supervise(absl::Time now) {
    for (auto& [rank, state] : ranks_) {
      if (rank == 0) continue;
      if (state.restart.has_value() && now >= *state.restart) {
        Start(rank, /*joins=*/true);
        ++counts_["restarts"];
      } else if (!state.restart.has_value()) {
        const auto code = state.process->Wait(absl::ZeroDuration());
        if (!code.has_value()) continue;
        ++counts_[absl::StrCat("ends with ", *code)];
        state.restart = now + absl::Milliseconds(Between(100, 1500));
      }
    }
  }

  void Later(absl::Time when, std::function<void()> what) { later_.emplace(when, std::move(what)); }
  void DoDue(absl::Time now) {
    while (!later_.empty() && later_.begin()->first <= now) {
      const auto what = std::move(later_.begin()->second);
      later_.erase(later_.begin());
      what();
    }
  }

  void Act(absl::Time now) {
    const std::vector<std::string> actions = absl::StrSplit(s_.actions, ',');
    const std::string action = actions[random_() % actions.size()];
    const int rank = static_cast<int>(Between(1, static_cast<uint64_t>(s_.ranks) - 1));
    Rank& state = ranks_[rank];
    if (state.restart.has_value() || state.process->Wait(absl::ZeroDuration()).has_value()) return;
    if (action == "kill") {
      Say(absl::StrCat("kill -9 rank ", rank));
      Signal(rank, SIGKILL);
    } else if (action == "leave") {
      Say(absl::StrCat("rank ", rank, " is told to leave"));
      Signal(rank, SIGTERM);
    } else if (action == "stop") {
      const absl::Duration lasts = absl::Milliseconds(Between(200, 3000));
      Say(absl::StrCat("rank ", rank, " is stopped for ", absl::FormatDuration(lasts)));
      Signal(rank, SIGSTOP);
      const pid_t pid = state.process->pid();
      Later(now + lasts, [this, rank, pid] {
        if (ranks_[rank].process->pid() == pid) Signal(rank, SIGCONT);
      });
    } else if (action == "cut") {
      Say(absl::StrCat("host of rank ", rank, " is cut from all for 5 s"));
      FakeHosts::Link(rank, false);
      Later(now + absl::Seconds(5), [rank] { FakeHosts::Link(rank, true); });
    } else if (action == "pair") {
      const int other = 1 + rank % (s_.ranks - 1);
      if (other == rank) return;
      Say(absl::StrCat("ranks ", rank, " and ", other, " are cut from each other for 5 s"));
      for (const int i : {rank, other}) FakeHosts::Isolate(i, true);
      Later(now + absl::Seconds(5), [rank, other] {
        for (const int i : {rank, other}) FakeHosts::Isolate(i, false);
      });
    } else {
      CHECK(false) << "no action '" << action << "'; there are kill, stop, leave, cut, pair";
    }
    ++counts_[action];
  }

  // FakeHosts::In is exec all the way: the child is the program.
  void Signal(int rank, int signal) { ranks_[rank].process->Signal(signal); }

  void Sample(absl::Time now) {
    for (const auto& [rank, state] : ranks_) {
      if (state.restart.has_value()) continue;
      const uint64_t bytes = ResidentBytes(state.process->pid());
      if (bytes > 0) memory_[rank].push_back({absl::ToDoubleSeconds(now - start_), bytes / 1048576.0});
    }
  }

  bool CheckMemory() {
    bool flat = true;
    for (const auto& [rank, samples] : memory_) {
      const auto median = [&](double from, double to) {
        std::vector<double> values;
        for (size_t i = static_cast<size_t>(from * samples.size());
             i < static_cast<size_t>(to * samples.size()); ++i)
          values.push_back(samples[i].second);
        if (values.empty()) return 0.0;
        std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
        return values[values.size() / 2];
      };
      // Caches and pools are touched first in the beginning.
      const double early = median(0.25, 0.5), late = median(0.75, 1);
      std::printf("rank %d: resident %.1f MiB in the second quarter, %.1f MiB in the last\n", rank, early,
                  late);
      if (late > 1.1 * early + 8) flat = Fail(absl::StrCat("the memory of rank ", rank, " grows"));
    }
    return flat;
  }

  std::vector<json> Lines(const std::string& name) const {
    std::ifstream file(*folder_ / name);
    std::vector<json> lines;
    for (std::string line; std::getline(file, line);) lines.push_back(json::parse(line, nullptr, false));
    return lines;
  }

  bool Compare() {
    const std::vector<json> right = Lines("right.jsonl"), lines = Lines("out.jsonl");
    for (const auto& [what, count] : counts_) std::printf("%s: %d\n", what.c_str(), count);
    std::ifstream report_file(*folder_ / "report/report.json");
    const json report = json::parse(report_file, nullptr, false);
    if (report.is_object())
      std::printf("recovery %s\nloans %s\n", report["recovery"].dump().c_str(),
                  report["loans"].dump().c_str());
    if (static_cast<int>(lines.size()) != s_.requests)
      return Fail(absl::StrCat(lines.size(), " lines for ", s_.requests, " requests"));
    int equal = 0, as_likely = 0;
    for (size_t i = 0; i < lines.size(); ++i) {
      if (!lines[i].contains("token_ids")) return Fail(absl::StrCat("request ", i, ": ", lines[i].dump()));
      const std::vector<int32_t> a = right[i]["token_ids"], b = lines[i]["token_ids"];
      const std::vector<double> p = right[i]["logprobs"]["token_logprobs"],
                                q = lines[i]["logprobs"]["token_logprobs"];
      if (a.size() != b.size() || q.size() != b.size())
        return Fail(absl::StrCat("request ", i, " has another length"));
      bool same = true;
      for (size_t t = 0; t < a.size() && same; ++t) {
        if (std::abs(p[t] - q[t]) > s_.bound) {
          return Fail(absl::StrCat("request ", i, ", token ", t, ": ", a[t], " (", p[t], ") became ", b[t],
                                   " (", q[t], ")"));
        }
        same = a[t] == b[t];
      }
      ++(same ? equal : as_likely);
    }
    std::printf(
        "%d requests sent, %d answered: %d with equal tokens, %d first different at equal likelihood\n",
        s_.requests, equal + as_likely, equal, as_likely);
    return true;
  }

  Settings s_;
  std::mt19937_64 random_;
  std::unique_ptr<TempDir> folder_;
  std::unique_ptr<FakeHosts> hosts_;
  std::string place_;
  absl::Time start_;
  std::map<int, Rank> ranks_;
  std::multimap<absl::Time, std::function<void()>> later_;
  std::map<std::string, int> counts_;
  std::map<int, std::vector<std::pair<double, double>>> memory_;  // seconds, MiB
  bool failed_ = false;
};

}  // namespace
}  // namespace lombard

int main(int argc, char** argv) {
  lombard::Settings s{.lombard = LOMBARD_BINARY, .seed = std::random_device()()};
  CLI::App app{"Disturbs a job under load and checks its answers."};
  app.add_option("--lombard", s.lombard, "the program");
  app.add_option("--model", s.model, "model directory");
  app.add_option("--prompts", s.prompts, "JSON lines with prompts; otherwise random tokens");
  app.add_option("--ranks", s.ranks)->check(CLI::Range(2, 16));
  app.add_option("--seconds", s.seconds, "for how long");
  app.add_option("--rate", s.rate, "requests per second");
  app.add_option("--kv-tokens", s.kv_tokens,
                 "of each rank; rank 0 has a third, so that others are homes and lend to each other");
  app.add_option("--long-tokens", s.long_tokens, "of every eighth prompt");
  app.add_option("--long-output", s.long_output, "tokens that these generate at most");
  app.add_option("--bound", s.bound, "of log probabilities: 0.001 for fp32, 0.05 for bf16");
  app.add_option("--seed", s.seed, "of the disturbances and prompts");
  app.add_option("--actions", s.actions, "some of kill,stop,leave; with --hosts also cut,pair");
  app.add_flag("--hosts", s.hosts, "each rank on a fake host of its own (root)");
  CLI11_PARSE(app, argc, argv);
  std::printf("lombard-chaos: %d ranks, %g s, seed %llu\n", s.ranks, s.seconds,
              static_cast<unsigned long long>(s.seed));
  std::fflush(stdout);
  const bool ok = lombard::Chaos(s).Run();
  std::printf("%s\n", ok ? "ok" : "FAILED");
  return ok ? 0 : 1;
}
