// Goal: a host that is cut off from all is fenced and comes back; where only a debtor and its creditor cannot
// reach each other, nobody is fenced; both cost the lent span and no token. Method: three fake hosts (root),
// a rank on each; the second is home of a request that the third lends to. How far the lending has come is
// read off the creditor's link, not off a clock: a run without a cut says how many bytes it takes, and each
// case is run with the cut at other shares of that until it met the loan.
#include <gtest/gtest.h>

#include <filesystem>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/e2e/generate_run.h"
#include "tests/support/child_process.h"
#include "tests/support/fake_hosts.h"
#include "tests/support/same_answers.h"
#include "tests/support/temp_dir.h"

namespace lombard {
namespace {

using nlohmann::json;

constexpr int kHosts = 3, kHome = 1, kCreditor = 2;  // the home has the largest pool
constexpr char kModel[] = "tests/data/tiny";

// A request larger than its home, and not larger than home and rank 0; the creditor has most to lend. Others
// go on coming, so that the job outlives the cut.
std::string Input() {
  std::string input;
  for (int i = 0; i < 60; ++i) {
    json line = {{"id", i}, {"ignore_eos", true}, {"logprobs", 0}, {"max_tokens", i == 0 ? 3800 : 30}};
    line["prompt"] = json::array({7 + i, 8, 9});
    absl::StrAppend(&input, line.dump(), "\n");
  }
  return input;
}

struct CutRun {
  uint64_t link_bytes = 0;  // of the creditor
  bool cut = false;
  json recovery;
};

class HostCuts : public testing::Test {
 protected:
  void SetUp() override {
    if (const absl::Status possible = FakeHosts::Possible(); !possible.ok())
      GTEST_SKIP() << possible.message();
    right_ = RunGenerateProgram(0, kModel, Input(), {"--kv-tokens", "8192", "--block-tokens", "16"}).lines;
    ASSERT_EQ(right_.size(), 60u);
  }

  // `cut(hosts, true)` when so many bytes have gone over the creditor's link, and with false `lasts` later.
  CutRun Run(const std::string& dead_after, uint64_t at_bytes, absl::Duration lasts,
             const std::function<void(FakeHosts&, bool)>& cut) {
    TempDir folder;
    WriteAll(folder / "in.jsonl", Input());
    WriteAll(folder / "key", "a secret that all ranks of this job share");
    std::filesystem::permissions(folder / "key", std::filesystem::perms::owner_read);
    FakeHosts hosts(kHosts);
    std::vector<std::unique_ptr<ChildProcess>> ranks;
    for (int rank = 0; rank < kHosts; ++rank) {
      ranks.push_back(std::make_unique<ChildProcess>(hosts.On(rank, {LOMBARD_BINARY,
                                                                     "generate",
                                                                     "--model",
                                                                     kModel,
                                                                     "--input",
                                                                     folder / "in.jsonl",
                                                                     "--output",
                                                                     folder / "out.jsonl",
                                                                     "--report",
                                                                     folder / "report",
                                                                     "--rate",
                                                                     "2",
                                                                     "--kv-tokens",
                                                                     "1900,2400,2380",
                                                                     "--block-tokens",
                                                                     "16",
                                                                     "--threads",
                                                                     "1",
                                                                     "--rendezvous",
                                                                     FakeHosts::Address(0) + ":7700",
                                                                     "--cluster-key-file",
                                                                     folder / "key",
                                                                     "--dead-after",
                                                                     dead_after,
                                                                     "--size",
                                                                     absl::StrCat(kHosts),
                                                                     "--rank",
                                                                     absl::StrCat(rank)}),
                                                     folder / absl::StrCat(rank, ".log")));
    }
    CutRun run;
    absl::Time heal = absl::InfiniteFuture();
    while (!ranks[0]->Wait(absl::Milliseconds(2)).has_value()) {
      run.link_bytes = hosts.Bytes(kCreditor);
      if (!run.cut && run.link_bytes >= at_bytes) {
        run.cut = true;
        cut(hosts, true);
        heal = absl::Now() + lasts;
      }
      if (absl::Now() >= heal) cut(hosts, false), heal = absl::InfiniteFuture();
    }
    EXPECT_EQ(ranks[0]->Wait(absl::ZeroDuration()), 0) << ReadAll(folder / "0.log");
    for (int rank = 1; rank < kHosts; ++rank)
      EXPECT_EQ(ranks[rank]->Wait(absl::Seconds(60)), 0) << ReadAll(folder / absl::StrCat(rank, ".log"));
    std::istringstream lines(ReadAll(folder / "out.jsonl"));
    size_t count = 0;
    for (std::string line, why; std::getline(lines, line) && count < right_.size(); ++count) {
      EXPECT_NE(CompareAnswers(right_[count], json::parse(line, nullptr, false), 0.001, &why),
                SameAnswer::kWrong)
          << "request " << count << ": " << why;
    }
    EXPECT_EQ(count, right_.size());
    run.recovery = json::parse(ReadAll(folder / "report/report.json"), nullptr, false)["recovery"];
    return run;
  }

  void RunUntil(const std::string& dead_after, absl::Duration lasts,
                const std::function<void(FakeHosts&, bool)>& cut,
                const std::function<bool(const json& recovery)>& happened) {
    const auto nothing = [](FakeHosts&, bool) {};
    const uint64_t all = Run("30s", ~uint64_t{0}, lasts, nothing).link_bytes;
    std::string seen;
    for (const double share : {0.5, 0.4, 0.6, 0.3, 0.7, 0.2}) {
      const CutRun run = Run(dead_after, static_cast<uint64_t>(share * static_cast<double>(all)), lasts, cut);
      absl::StrAppend(&seen, "\n  after ", share, " of ", all, " bytes: ", run.recovery.dump());
      if (HasFailure()) break;
      if (run.cut && happened(run.recovery)) {
        std::printf("%s\n", seen.c_str());
        return;
      }
    }
    FAIL() << "the cut never met the loan:" << seen;
  }

  std::vector<json> right_;
};

TEST_F(HostCuts, AHostCutFromAllIsFencedAndRejoins) {
  RunUntil(
      "1s", absl::Seconds(5), [](FakeHosts& hosts, bool on) { hosts.SetLink(kCreditor, !on); },
      [](const json& recovery) {
        return recovery["fenced"] >= 1 && recovery["ranks_lost"] == 0 && recovery["lost_tokens"] > 0;
      });
}

TEST_F(HostCuts, WhereOnlyDebtorAndCreditorAreCutNobodyIsFenced) {
  RunUntil(
      "3s", absl::Seconds(12),
      [](FakeHosts& hosts, bool on) {
        for (const int host : {kHome, kCreditor}) hosts.SetIsolated(host, on);
      },
      [](const json& recovery) {
        EXPECT_EQ(recovery["fenced"], 0) << recovery;
        EXPECT_EQ(recovery["ranks_lost"], 0) << recovery;
        EXPECT_EQ(recovery["requests_replayed"], 0) << recovery;
        return recovery["lost_tokens"] > 0 && recovery["recomputed_tokens"] > 0;
      });
}

}  // namespace
}  // namespace lombard
