// Chaos on real processes: a job under load whose ranks, but rank 0, are killed, stopped, told to leave,
// started again and cut off every few seconds, and whose answers must be those of an undisturbed run.
//
//   lombard-chaos --seconds 20                                    # four ranks on this host
//   lombard-chaos --hosts --actions kill,stop,leave,cut,pair --ranks 5 --seconds 1800 --seed 7
//       --model launch/demo_model --text ../shared/data/texts/moby_dick.txt        # each on a fake host
//       (root)
//
// Ranks meet at rank 0's port, without a launcher; who ended is started again and joins (--join), as a
// supervisor would do it. `cut` takes a fake host's link away for 5 s, `pair` isolates the ports of two hosts
// from each other. Rank 1 is never ended on purpose, so that the memory of a process that was stopped, cut
// off and fenced many times is seen too.
//
// Exit 0 when all of this holds, 1 otherwise:
//   rank 0 ended with 0, and within 45 s all others ended, with 0 or 1, or by our SIGKILL, or in an assertion
//   of UCX itself (counted: the job has to survive those as well); something was done to a rank while
//   requests were open, and the report says that it met some of them; every request has one answer, and its
//   tokens are those of one rank with all the memory (same_answers.h); the memory of processes that lived for
//   a quarter of the run stayed flat (memory_record.h).
// Everything of the run stays in its folder under build/runs.
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <set>

#include "absl/algorithm/container.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "tests/chaos/memory_record.h"
#include "tests/support/child_process.h"
#include "tests/support/fake_hosts.h"
#include "tests/support/free_port.h"
#include "tests/support/same_answers.h"

namespace lombard {
namespace {

using nlohmann::json;

constexpr absl::Duration kEndWait =
    absl::Seconds(45);  // more than --start-timeout and ten times --dead-after
constexpr int kSparedRank = 1;

struct Settings {
  std::string lombard, model = "tests/data/tiny", text, folder;
  int ranks = 4, distinct = 200;
  double seconds = 20, rate = 3, every = 2.4, bound = 0.001;
  uint64_t seed = 0;
  std::string actions = "kill,stop,leave";
  uint32_t kv_tokens = 1200, long_tokens = 1500, long_output = 300;
  bool hosts = false;
};

std::string ReadAll(const std::string& path) {
  std::ifstream file(path);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

class Chaos {
 public:
  explicit Chaos(const Settings& settings)
      : s_(settings), random_(settings.seed), actions_(absl::StrSplit(settings.actions, ',')) {
    if (s_.folder.empty()) {
      s_.folder =
          absl::StrCat("build/runs/chaos-",
                       absl::FormatTime("%Y%m%d-%H%M%S", absl::Now(), absl::UTCTimeZone()), ".", getpid());
    }
    std::filesystem::create_directories(s_.folder);
    if (s_.hosts) hosts_ = std::make_unique<FakeHosts>(s_.ranks);
    place_ = absl::StrCat(s_.hosts ? FakeHosts::Address(0) : "127.0.0.1", ":", FreePort());
    start_ = absl::Now();
  }

  bool Run() {
    std::printf("files of the run: %s\n", s_.folder.c_str());
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
      ReadAnswers(now);
      Supervise(now);
      if (now >= next_sample) Sample(now), next_sample = now + absl::Seconds(std::max(0.5, s_.seconds / 600));
      if (now < next_action || now > end) continue;
      const auto every_ms = static_cast<uint64_t>(1000 * s_.every);
      next_action = now + absl::Milliseconds(Between(every_ms / 3, 5 * every_ms / 3));
      Act(now);
    }
    const int code = *ranks_[0].process->Wait(absl::ZeroDuration());
    Say(absl::StrCat("rank 0 has ended with ", code));
    if (code != 0) Fail("rank 0 failed: see rank.0.log");
    AwaitEnds();
    Compare();
    CheckMemory();
    return ok_;
  }

 private:
  struct Rank {
    std::unique_ptr<ChildProcess> process;
    int start = 0;                      // the how-manieth process of this rank
    std::optional<absl::Time> restart;  // when the next one is to start
    bool joins = false, told_to_leave = false, killed = false, cut = false;
    std::string log;
  };

  uint64_t Between(uint64_t low, uint64_t high) { return low + random_() % (high - low + 1); }
  std::string InFolder(const std::string& name) const { return s_.folder + "/" + name; }
  void Say(const std::string& what) {
    std::printf("%8.2f  %s\n", absl::ToDoubleSeconds(absl::Now() - start_), what.c_str());
    std::fflush(stdout);
  }
  bool Fail(const std::string& what) {
    Say(absl::StrCat("FAILED: ", what));
    return ok_ = false;
  }

  // The text's tokens; random ones without a text.
  std::vector<int32_t> Tokens() {
    std::vector<int32_t> tokens;
    if (s_.text.empty()) {
      for (int i = 0; i < 100000; ++i) tokens.push_back(static_cast<int32_t>(Between(5, 500)));
      return tokens;
    }
    const std::string command =
        absl::StrCat("head -c 1000000 '", s_.text, "' | '", s_.lombard, "' model tokenize '", s_.model, "'");
    FILE* pipe = popen(command.c_str(), "r");
    CHECK(pipe != nullptr);
    std::string out;
    char buffer[4096];
    for (size_t n; (n = std::fread(buffer, 1, sizeof(buffer), pipe)) > 0;) out.append(buffer, n);
    CHECK_EQ(pclose(pipe), 0) << command;
    return json::parse(out).get<std::vector<int32_t>>();
  }

  // Pieces of the text. Every eighth is long, every fourth begins with one of a few passages. After
  // `distinct` requests they are asked again, under another salt, so that nothing of them is cached.
  void WriteInput() {
    const std::vector<int32_t> tokens = Tokens();
    const auto piece = [&](uint64_t count) {
      const auto at = tokens.begin() + static_cast<ptrdiff_t>(random_() % (tokens.size() - count));
      return std::vector<int32_t>(at, at + static_cast<ptrdiff_t>(count));
    };
    std::vector<std::vector<int32_t>> passages;
    for (int i = 0; i < 3; ++i) passages.push_back(piece(200));
    requests_ = std::max(4, static_cast<int>(s_.seconds * s_.rate));
    s_.distinct = std::min(s_.distinct, requests_);
    std::vector<json> distinct;
    for (int i = 0; i < s_.distinct; ++i) {
      json line = {{"ignore_eos", true}, {"logprobs", 0}, {"temperature", 0}};
      const bool is_long = i % 8 == 3;
      line["max_tokens"] = is_long ? Between(s_.long_output / 2, s_.long_output) : Between(10, 80);
      std::vector<int32_t> prompt;
      if (i % 4 == 1) prompt = passages[random_() % passages.size()];
      const std::vector<int32_t> rest = piece(is_long ? s_.long_tokens : Between(5, 200));
      prompt.insert(prompt.end(), rest.begin(), rest.end());
      line["prompt"] = prompt;
      distinct.push_back(line);
    }
    std::ofstream input(InFolder("in.jsonl")), right(InFolder("right_in.jsonl"));
    for (int i = 0; i < requests_; ++i) {
      json line = distinct[static_cast<size_t>(i % s_.distinct)];
      line["id"] = i;
      if (i < s_.distinct) right << line.dump() << "\n";
      line["cache_salt"] = absl::StrCat("round ", i / s_.distinct);
      input << line.dump() << "\n";
    }
    std::filesystem::remove(InFolder("key"));
    std::ofstream(InFolder("key")) << "the secret of the chaos run\n";
    std::filesystem::permissions(InFolder("key"), std::filesystem::perms::owner_read);
  }

  std::vector<std::string> Command(const std::string& input, const std::string& output) const {
    return {s_.lombard, "generate",       "--model",        s_.model, "--input",   InFolder(input),
            "--output", InFolder(output), "--block-tokens", "16",     "--threads", "1"};
  }

  bool Undisturbed() {
    std::vector<std::string> command = Command("right_in.jsonl", "right.jsonl");
    command.insert(command.end(), {"--kv-tokens", absl::StrCat(s_.kv_tokens * s_.ranks)});
    ChildProcess process(command, InFolder("right.log"));
    const auto code = process.Wait(absl::Seconds(120 + 2 * s_.seconds));
    if (code == 0) return true;
    return Fail(absl::StrCat("the undisturbed run ended with ", code.value_or(-1), ": see right.log"));
  }

  std::string Pools() const {
    std::string pools = absl::StrCat(s_.kv_tokens / 3);
    for (int rank = 1; rank < s_.ranks; ++rank) absl::StrAppend(&pools, ",", s_.kv_tokens);
    return pools;
  }

  void Start(int rank, bool joins) {
    std::vector<std::string> command = Command("in.jsonl", "out.jsonl");
    command.insert(command.end(), {"--rendezvous", place_, "--cluster-key-file", InFolder("key"),
                                   "--kv-tokens", Pools(), "--dead-after", "1s", "--start-timeout", "30s",
                                   "--drain-wait", "5s", "--rank", absl::StrCat(rank)});
    if (joins) {
      command.push_back("--join");
    } else {
      command.insert(command.end(), {"--size", absl::StrCat(s_.ranks), "--report", InFolder("report"),
                                     "--rate", absl::StrCat(s_.rate)});
    }
    if (s_.hosts) command = hosts_->On(rank, command);
    Rank& state = ranks_[rank];
    const int start = state.start + 1;
    const std::string log = InFolder(absl::StrCat("rank.", rank, ".", start, ".log"));
    state = {.process = std::make_unique<ChildProcess>(command, log),
             .start = start,
             .restart = {},
             .joins = joins,
             .log = log};
    if (!joins || rank == kSparedRank || random_() % 2 == 0 || !absl::c_linear_search(actions_, "early"))
      return;
    Later(absl::Now() + absl::Milliseconds(Between(20, 400)), [this, rank, start] {
      Rank& now = ranks_[rank];
      if (now.start != start || now.process->Wait(absl::ZeroDuration()).has_value()) return;
      now.killed = true;
      now.process->Signal(SIGKILL);
      ++counts_["early kill"];
    });
  }

  // Our SIGKILL, or an orderly end. Others fail the run, but for UCX's own assertions, of which it may know
  // nothing but that a peer died while it connected.
  void CountEnd(int rank, int code) {
    const Rank& state = ranks_[rank];
    ++counts_[absl::StrCat("ends with ", code)];
    if (code == 0 || (code == 137 && state.killed)) return;
    const std::string log = ReadAll(state.log);
    if (code == 143 && state.told_to_leave && log.empty()) return;  // before it knew how to leave
    const std::vector<std::string> lines = absl::StrSplit(log, '\n', absl::SkipEmpty());
    if (code == 1) {
      Say(absl::StrCat("rank ", rank, " has ended with 1: ", lines.empty() ? "" : lines.back()));
      if (!state.joins && !state.told_to_leave && !state.cut) Fail("it was not told to");
    } else if (code == 134 && absl::StrContains(log, "ucp_") && absl::StrContains(log, "Assertion `")) {
      Say(absl::StrCat("rank ", rank, " died in an assertion of UCX: ", state.log));
      ++ucx_aborts_;
    } else {
      Fail(absl::StrCat("rank ", rank, " ended with ", code, ": see ", state.log));
    }
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
        CountEnd(rank, *code);
        state.restart = now + absl::Milliseconds(Between(100, 1500));
      }
    }
  }

  // After rank 0: links are up, nobody is stopped, and all end by themselves.
  void AwaitEnds() {
    while (!later_.empty()) DoDue(later_.begin()->first);
    const absl::Time end = absl::Now() + kEndWait;
    for (auto& [rank, state] : ranks_) {
      if (rank == 0 || state.restart.has_value()) continue;
      const auto code = state.process->Wait(std::max(end - absl::Now(), absl::ZeroDuration()));
      if (code.has_value()) {
        CountEnd(rank, *code);
      } else {
        Fail(absl::StrCat("rank ", rank, " still runs ", absl::FormatDuration(kEndWait), " after rank 0"));
      }
    }
    Say("all ranks are gone, or killed now");
  }

  void Later(absl::Time when, std::function<void()> what) { later_.emplace(when, std::move(what)); }
  void DoDue(absl::Time now) {
    while (!later_.empty() && later_.begin()->first <= now) {
      const auto what = std::move(later_.begin()->second);
      later_.erase(later_.begin());
      what();
    }
  }

  void ReadAnswers(absl::Time now) {
    if (!output_.is_open()) output_.open(InFolder("out.jsonl"));
    output_.clear();
    char more[65536];
    while (output_.read(more, sizeof(more)), output_.gcount() > 0) {
      if (!first_answer_.has_value()) first_answer_ = now;
      written_ += std::count(more, more + output_.gcount(), '\n');
      output_.clear();
    }
  }
  // Requests come in the file's order, and answers are written in it: the first that is not written is open
  // when more have come. They have come at the rate since before the first answer.
  bool RequestsOpen(absl::Time now) const {
    return first_answer_.has_value() && written_ < requests_ &&
           1 + absl::ToDoubleSeconds(now - *first_answer_) * s_.rate >= static_cast<double>(written_ + 1);
  }

  void Act(absl::Time now) {
    const std::string action = actions_[random_() % actions_.size()];
    const bool ends = action == "kill" || action == "leave";
    const int lowest = ends && s_.ranks > 2 ? kSparedRank + 1 : 1;
    const int rank =
        static_cast<int>(Between(static_cast<uint64_t>(lowest), static_cast<uint64_t>(s_.ranks) - 1));
    Rank& state = ranks_[rank];
    if (action == "early" || state.restart.has_value()) return;
    if (state.process->Wait(absl::ZeroDuration()).has_value()) return;
    std::string what;
    if (action == "kill") {
      what = absl::StrCat("kill -9 rank ", rank);
      state.killed = true;
      state.process->Signal(SIGKILL);
    } else if (action == "leave") {
      what = absl::StrCat("rank ", rank, " is told to leave");
      state.told_to_leave = true;
      state.process->Signal(SIGTERM);
    } else if (action == "stop") {
      const absl::Duration lasts = absl::Milliseconds(Between(200, 3000));
      what = absl::StrCat("rank ", rank, " is stopped for ", absl::FormatDuration(lasts));
      state.process->Signal(SIGSTOP);
      const int start = state.start;
      Later(now + lasts, [this, rank, start] {
        if (ranks_[rank].start == start) ranks_[rank].process->Signal(SIGCONT);
      });
    } else if (action == "cut") {
      if (!cut_.insert(rank).second) return;
      what = absl::StrCat("the host of rank ", rank, " is cut from all for 5 s");
      state.cut = true;
      hosts_->SetLink(rank, false);
      Later(now + absl::Seconds(5), [this, rank] { hosts_->SetLink(rank, true), cut_.erase(rank); });
    } else {
      const int other = 1 + rank % (s_.ranks - 1);
      if (other == rank || pair_cut_) return;
      what = absl::StrCat("ranks ", rank, " and ", other, " are cut from each other for 5 s");
      pair_cut_ = true;
      for (const int i : {rank, other}) hosts_->SetIsolated(i, true);
      Later(now + absl::Seconds(5), [this, rank, other] {
        for (const int i : {rank, other}) hosts_->SetIsolated(i, false);
        pair_cut_ = false;
      });
    }
    const bool open = RequestsOpen(now);
    Say(absl::StrCat(what, open ? "" : " (no request known to be open)"));
    ++counts_[action];
    while_open_ += open;
  }

  void Sample(absl::Time now) {
    for (const auto& [rank, state] : ranks_) {
      if (state.restart.has_value()) continue;
      memory_.Sample(absl::StrCat("rank ", rank, " process ", state.start), state.process->pid(),
                     absl::ToDoubleSeconds(now - start_));
    }
  }

  void CheckMemory() {
    std::printf(
        "resident memory, MiB: medians of the first, second and last quarter; MiB per minute after the "
        "first\n");
    int brief = 0;
    for (const MemoryRecord::Verdict& v : memory_.Verdicts(std::max(120.0, s_.seconds / 4))) {
      if (!v.judged) {
        ++brief;
        continue;
      }
      std::printf("  %s, %.0f to %.0f s: %.1f, %.1f, %.1f; %+.3f\n", v.who.c_str(), v.from_s, v.to_s, v.first,
                  v.second, v.last, v.slope);
      if (!v.flat) Fail(absl::StrCat("the memory of ", v.who, " grows"));
    }
    std::printf("  (%d processes lived for less than two minutes or a quarter of the run)\n", brief);
  }

  std::vector<json> Lines(const std::string& name) const {
    std::ifstream file(InFolder(name));
    std::vector<json> lines;
    for (std::string line; std::getline(file, line);) lines.push_back(json::parse(line, nullptr, false));
    return lines;
  }

  void PrintPools(const json& timeline) {
    std::printf("KV tokens in use, by rank: means of the quarters of the run (lent in brackets)\n");
    for (int rank = 0; rank < s_.ranks; ++rank) {
      std::printf("  rank %d:", rank);
      const size_t n = timeline.size();
      for (size_t quarter = 0; quarter < 4; ++quarter) {
        double used = 0, lent = 0;
        const size_t from = quarter * n / 4, to = (quarter + 1) * n / 4;
        for (size_t i = from; i < to; ++i) {
          used += timeline[i]["kv_tokens_used"][static_cast<size_t>(rank)].get<double>();
          lent += timeline[i]["kv_tokens_lent"][static_cast<size_t>(rank)].get<double>();
        }
        if (to > from) std::printf(" %.0f (%.0f)", used / (to - from), lent / (to - from));
      }
      std::printf("\n");
    }
  }

  void Compare() {
    const std::vector<json> right = Lines("right.jsonl"), lines = Lines("out.jsonl");
    const json report = json::parse(ReadAll(InFolder("report/report.json")), nullptr, false);
    std::map<int, int> answers;  // by request
    int equal = 0, as_likely = 0;
    for (const json& line : lines) {
      const int id = line.is_object() && line.contains("id") && line["id"].is_number_integer()
                         ? line["id"].get<int>()
                         : -1;
      std::string why = "not a line of this job: " + line.dump();
      SameAnswer same = SameAnswer::kWrong;
      if (id >= 0 && id < requests_ && ++answers[id] == 1)
        same = CompareAnswers(right[static_cast<size_t>(id % s_.distinct)], line, s_.bound, &why);
      equal += same == SameAnswer::kEqual;
      as_likely += same == SameAnswer::kAsLikely;
      if (same == SameAnswer::kWrong)
        Fail(absl::StrCat("request ", id, ": ", answers[id] > 1 ? "answered twice" : why));
    }
    if (equal + as_likely != requests_)
      Fail(absl::StrCat(equal + as_likely, " right answers to ", requests_, " requests"));
    for (const auto& [what, count] : counts_) std::printf("%s: %d\n", what.c_str(), count);
    std::printf("deaths in assertions of UCX: %d\n", ucx_aborts_);
    std::printf("disturbances while requests were open: %d\n", while_open_);
    std::printf(
        "%d requests sent, %d answered correctly: %d with equal tokens, %d first different at equal "
        "likelihood\n",
        requests_, equal + as_likely, equal, as_likely);
    if (!report.is_object()) {
      Fail("no report");
      return;
    }
    const json& r = report["recovery"];
    std::printf("recovery %s\nloans %s\n", r.dump().c_str(), report["loans"].dump().c_str());
    PrintPools(report["timeline"]);
    const int met = r["requests_replayed"].get<int>() + r["requests_handed_back"].get<int>() +
                    r["lost_tokens"].get<int>() + r["pause_s"]["count"].get<int>() +
                    r["others_pause_s"]["count"].get<int>();
    if (while_open_ == 0 || met == 0) Fail("nothing was disturbed: no request was open, or none noticed");
  }

  Settings s_;
  std::mt19937_64 random_;
  const std::vector<std::string> actions_;
  int requests_ = 0;
  std::unique_ptr<FakeHosts> hosts_;
  std::string place_;
  absl::Time start_;
  std::map<int, Rank> ranks_;  // ends before the hosts
  std::multimap<absl::Time, std::function<void()>> later_;
  std::set<int> cut_;  // hosts, now
  bool pair_cut_ = false;
  std::map<std::string, int> counts_;
  int ucx_aborts_ = 0, while_open_ = 0;
  std::ifstream output_;
  std::optional<absl::Time> first_answer_;
  int64_t written_ = 0;
  MemoryRecord memory_;
  bool ok_ = true;
};

}  // namespace
}  // namespace lombard

int main(int argc, char** argv) {
  lombard::Settings s{.lombard = LOMBARD_BINARY, .seed = std::random_device()()};
  CLI::App app{"Disturbs a job under load and checks its answers."};
  app.add_option("--lombard", s.lombard, "the program");
  app.add_option("--model", s.model, "model directory");
  app.add_option("--text", s.text, "prompts are pieces of this file; otherwise random tokens");
  app.add_option("--folder", s.folder, "of the run; a new one under build/runs without it");
  app.add_option("--ranks", s.ranks)->check(CLI::Range(2, 16));
  app.add_option("--seconds", s.seconds, "for how long");
  app.add_option("--rate", s.rate, "requests per second");
  app.add_option("--distinct", s.distinct, "requests until they are asked again")
      ->check(CLI::Range(4, 100000));
  app.add_option("--every", s.every, "seconds between two disturbances, on average");
  app.add_option("--kv-tokens", s.kv_tokens,
                 "of each rank; rank 0 has a third, so that others are homes and lend to each other");
  app.add_option("--long-tokens", s.long_tokens, "of every eighth prompt");
  app.add_option("--long-output", s.long_output, "tokens that these generate at most");
  app.add_option("--bound", s.bound, "of log probabilities: 0.001 for fp32, 0.05 for bf16");
  app.add_option("--seed", s.seed, "of the disturbances and prompts");
  app.add_option("--actions", s.actions,
                 "some of kill,stop,leave,early (half of those that join are killed within 0.4 s); with "
                 "--hosts also cut,pair");
  app.add_flag("--hosts", s.hosts, "each rank on a fake host of its own (root)");
  CLI11_PARSE(app, argc, argv);
  const std::set<std::string> known = {"kill", "stop", "leave", "early", "cut", "pair"};
  for (const std::string& action : std::vector<std::string>(absl::StrSplit(s.actions, ','))) {
    if (known.contains(action) && (s.hosts || (action != "cut" && action != "pair"))) continue;
    std::fprintf(stderr,
                 "no action '%s'; there are kill, stop, leave, early and, with --hosts, cut and pair\n",
                 action.c_str());
    return 2;
  }
  if (const absl::Status possible = s.hosts ? lombard::FakeHosts::Possible() : absl::OkStatus();
      !possible.ok()) {
    std::fprintf(stderr, "skipped: %s\n", std::string(possible.message()).c_str());
    return 77;
  }
  std::printf("lombard-chaos: %d ranks, %g s, seed %llu\n", s.ranks, s.seconds,
              static_cast<unsigned long long>(s.seed));
  std::fflush(stdout);
  const bool ok = lombard::Chaos(s).Run();
  std::printf("%s\n", ok ? "ok" : "FAILED");
  return ok ? 0 : 1;
}
