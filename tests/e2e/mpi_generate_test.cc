// Goal: the main job under mpirun with real transports: 1, 2 and 4 ranks give the golden tokens and agree on
// log-probabilities, with ample and with tiny uneven budgets.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

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

}  // namespace
}  // namespace lombard
