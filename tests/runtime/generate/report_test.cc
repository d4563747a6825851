// Goal: report.json has the names of the contract, a failure to write is reported; the
// progress line says what it should and is silent where nobody looks.
#include "runtime/generate/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <random>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "runtime/generate/progress.h"
#include "tests/support/temp_dir.h"

namespace lombard {
namespace {

using nlohmann::json;
using ::testing::EndsWith;
using ::testing::HasSubstr;

TEST(Report, HasExactlyTheFieldsOfTheContract) {
  Report report;
  report.requests = 1;
  report.tokens = {2, 3};
  report.output_tokens_per_s = 4.5;
  report.ttft_s = PercentilesOf({0.5});
  report.steps = 5, report.remote_steps = 6, report.remote_tokens_attended = 7;
  report.wire_bytes = {8, 9, 10, 11, 12};
  report.ranks.push_back({{13, 14, 15, 16}, 17, true});
  report.recovery = {26, 27, 28, 29, 30, 36, 37, 38, 31, 32, 33, 34, 35, PercentilesOf({0.5}), {}};
  report.timeline = {{0.5, 2, 36, 3, {39, 40}, {41, 42}}};
  report.prefix_cache = {23, 24, 25};
  report.loans = {18, 19, 20, 21, 22};
  report.gpu_exchanges = {43, 44, 45};
  const json nothing = {{"count", 0},     {"mean", nullptr}, {"p50", nullptr},
                        {"p90", nullptr}, {"p95", nullptr},  {"p99", nullptr}};
  const json half = {{"count", 1}, {"mean", 0.5}, {"p50", 0.5}, {"p90", 0.5}, {"p95", 0.5}, {"p99", 0.5}};
  json expected = json::parse(
      R"({"requests": 1, "tokens": {"prompt": 2, "output": 3}, "output_tokens_per_s": 4.5, "steps": 5,
    "remote_steps": 6, "remote_tokens_attended": 7, "wire_bytes": {"query": 8, "state": 9, "kv": 10, "control": 11, "framing": 12},
    "ranks": [{"kv_tokens": {"capacity": 13, "used_max": 14, "lent_max": 15, "borrowed_max": 16}, "served_steps": 17, "lost": true}],
    "recovery": {"ranks_lost": 26, "requests_replayed": 27, "lost_tokens": 28, "recomputed_tokens": 29,
                 "abandoned_steps": 30, "fenced": 31, "stale_tokens": 32, "replayed_tokens": 33, "adopted_tokens": 34,
                 "stale_messages": 35, "ranks_joined": 36, "ranks_left": 37, "requests_handed_back": 38},
    "timeline": [{"start_s": 0.5, "seconds": 2.0, "tokens_per_s": 18.0, "workers": 3,
                  "kv_tokens_used": [39, 40], "kv_tokens_lent": [41, 42]}],
    "prefix_cache": {"queried_tokens": 23, "hit_tokens": 24, "evicted_tokens": 25},
    "loans": {"granted": 18, "refused": 19, "recalled": 20, "repaid": 21, "lost": 22},
    "gpu_exchanges": {"done": 43, "refused": 44, "pairs_closed": 45}})");
  expected["ttft_s"] = expected["recovery"]["pause_s"] = half;
  expected["recovery"]["others_pause_s"] = nothing;
  expected["tpot_s"] = expected["itl_s"] = expected["e2e_s"] = nothing;
  EXPECT_EQ(json::parse(ReportJson(report)), expected);
}

TEST(Report, CreatesItsDirectoryAndReplacesAnOlderReport) {
  const TempDir temp;
  const std::string directory = temp / "report/deep/er";
  Report report;
  for (const int requests : {1, 2}) {
    report.requests = requests;
    ASSERT_TRUE(WriteReport(report, directory).ok());
    EXPECT_EQ(json::parse(*ReadWholeFile(directory + "/report.json"))["requests"], requests);
  }
}

TEST(Report, SaysWhereItCouldNotBeWritten) {
  const absl::Status status = WriteReport(Report(), "/proc/no/reports/here");
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), HasSubstr("/proc/no/reports/here"));
}

TEST(Progress, ShowsRequestsSpeedMemoryAndLoans) {
  const ProgressState state{.requests_done = 3,
                            .requests_total = 8,
                            .tokens_per_s = 51.23,
                            .ranks = {{10, 100}, {100, 100}, {0, 0}},
                            .tokens_lent = 4096};
  EXPECT_EQ(FormatProgress(state, 200),
            "[=======>            ] 3/8 requests  51.2 tokens/s  KV 10% 100% 0%  lent 4096 tokens");
  for (int columns = 0; columns < 90; ++columns) EXPECT_LE(FormatProgress(state, columns).size(), columns);
  EXPECT_THAT(FormatProgress(state, 40), EndsWith(".."));
  EXPECT_THAT(FormatProgress({.requests_done = 8, .requests_total = 8}, 200),
              HasSubstr("[====================] 8/8"));
}

TEST(Progress, IsSilentInAFile) {
  std::FILE* file = std::tmpfile();
  ASSERT_NE(file, nullptr);
  {
    ProgressLine line(file);
    EXPECT_FALSE(line.visible());
    line.Update({.requests_done = 1, .requests_total = 2}, absl::UnixEpoch());
    line.Clear();
  }
  EXPECT_EQ(std::ftell(file), 0);
  std::fclose(file);
}

}  // namespace
}  // namespace lombard
