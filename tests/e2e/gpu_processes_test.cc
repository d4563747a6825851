// Goal: ranks that compute on GPUs lend to each other between processes, whichever way their KV moves, and give
// the golden tokens. Method: the program as users run it, linked with the emulated device; UCX moves what the
// device's memory is here, the host's, by the same rendezvous.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "tests/e2e/generate_run.h"

namespace lombard {
namespace {

using testing::HasSubstr;

class GpuProcesses : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = NewFolder();
    WriteAll(folder_ + "/cluster.yaml", "lending: {reserve: 0%, lent_max: 100%}\n");
    const std::vector<GoldenCase> all = ReadGoldens("tests/data/tiny-golden.json");
    goldens_ = {all[4]};  // longer than its home's budget
    goldens_[0].greedy_ids.resize(6), goldens_[0].gaps.resize(6);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  GenerateRun Run(int ranks, const std::vector<std::string>& more) {
    std::vector<std::string> args = {"--device",           "cuda",
                                     "--block-tokens",     "16",
                                     "--kv-tokens",        "112,112",
                                     "--max-batch-tokens", "48",
                                     "--cluster",          folder_ + "/cluster.yaml"};
    args.insert(args.end(), more.begin(), more.end());
    return RunGenerateProgram(ranks, "tests/data/tiny", GoldenInput(goldens_), args, LOMBARD_EMULATED_BINARY);
  }

  std::string folder_;
  std::vector<GoldenCase> goldens_;
};

TEST_F(GpuProcesses, KvMovesFromDeviceToDeviceWhereUcxCan) {
  const GenerateRun run = Run(2, {"--ucx-profile", "rendezvous"});
  ASSERT_EQ(GoldenMismatches(goldens_, run, 0.001), "");
  EXPECT_THAT(run.program.err, HasSubstr("without host memory in between (GPUDirect)"));
  EXPECT_GT(run.report["remote_steps"], 0);
  EXPECT_GT(run.report["wire_bytes"]["kv"], 0);
  EXPECT_EQ(run.report["loans"]["granted"], run.report["loans"]["repaid"]);
}

TEST_F(GpuProcesses, KvMovesThroughTheHostWhereUcxCannotAndTheReasonIsSaid) {
  const GenerateRun run = Run(2, {"--ucx-profile", "tcp"});
  ASSERT_EQ(GoldenMismatches(goldens_, run, 0.001), "");
  EXPECT_THAT(run.program.err, HasSubstr("through pinned host memory: UCX profile tcp has no rendezvous"));
  EXPECT_GT(run.report["wire_bytes"]["kv"], 0);
}

TEST_F(GpuProcesses, WhoInsistsOnGpuDirectGetsItOrTheReason) {
  const GenerateRun run = Run(2, {"--ucx-profile", "tcp", "--gpu-direct", "on"});
  EXPECT_EQ(run.program.code, 1);
  EXPECT_THAT(run.program.err, HasSubstr("--gpu-direct on"));
  EXPECT_THAT(run.program.err, HasSubstr("UCX profile tcp has no rendezvous"));
}

TEST_F(GpuProcesses, AHostSaysOnceWhatItsGpuHolds) {
  const GenerateRun run = Run(2, {});
  ASSERT_EQ(GoldenMismatches(goldens_, run, 0.001), "");
  const std::string words = "rank 0: emulated (GPU 0): ";
  const size_t at = run.program.err.find(words);
  ASSERT_NE(at, std::string::npos) << run.program.err;
  EXPECT_EQ(run.program.err.find("--gpu-memory-utilization", at + 100), std::string::npos) << run.program.err;
}

}  // namespace
}  // namespace lombard
