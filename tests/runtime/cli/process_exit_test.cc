#include "runtime/cli/process_exit.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>

namespace lombard {
namespace {

struct WaitsForEver {
  ~WaitsForEver() {
    std::fprintf(stderr, "destroyed\n");
    std::abort();
  }
};

TEST(ProcessExitDeathTest, AtOnceSaysWhyRecordsTheCodeAndDestroysNothing) {
  const std::string directory = testing::TempDir() + "process_exit_test";
  ASSERT_EQ(std::system(("rm -rf '" + directory + "' && mkdir '" + directory + "'").c_str()), 0);
  const auto end = [&] {
    setenv("LOMBARD_RUN_DIR", directory.c_str(), 1);
    const WaitsForEver gpu;
    ExitAtOnce(absl::DeadlineExceededError("GPU 3 hangs"), /*speaks=*/true, /*launched=*/true);
  };
  EXPECT_EXIT(end(), testing::ExitedWithCode(1), "^lombard: GPU 3 hangs\n$");
  std::ifstream status(directory + "/rank.0.status");
  int code = 0;
  EXPECT_TRUE(status >> code);
  EXPECT_EQ(code, 1);
}

}  // namespace
}  // namespace lombard
