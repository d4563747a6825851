// What a benchmark has measured survives its end, however it ends. A child of this process is the benchmark, on
// the emulated device; it adds a row and aborts, and its parent reads what is left.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <iterator>

#include "bench/gpu_bench_support.h"

namespace lombard::bench {
namespace {

std::string Read(const std::string& path) {
  std::ifstream file(path);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

class BenchRowsTest : public testing::Test {
 protected:
  // Runs a benchmark to its end, or to its abort behind the first row. Returns what waitpid says.
  int Run(bool aborts, const std::string& json) {
    const pid_t child = fork();
    if (child == 0) {
      const int out = open(text_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
      dup2(out, STDOUT_FILENO);
      std::string flags[] = {"x_bench", "--smoke", "--json", json};
      char* argv[] = {flags[0].data(), flags[1].data(), flags[2].data(), flags[3].data()};
      _exit(GpuBenchMain(4, argv, "x_bench", 1, [&](Device&, const Options&, const Ceilings&, Rows& rows) {
        std::printf("| first |\n");
        rows.Add({{"name", "first"}, {"median_us", 1.5}});
        if (aborts) abort();
        rows.Add({{"name", "second"}, {"median_us", 2.5}});
      }));
    }
    int status = 0;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    return status;
  }

  void TearDown() override { unlink(text_.c_str()), unlink(json_.c_str()); }

  const std::string text_ = testing::TempDir() + std::to_string(getpid()) + ".bench_rows_test.text";
  const std::string json_ = testing::TempDir() + std::to_string(getpid()) + ".bench_rows_test.json";
};

TEST_F(BenchRowsTest, AnAbortLeavesTheRowsBeforeIt) {
  const int status = Run(/*aborts=*/true, json_);
  ASSERT_TRUE(WIFSIGNALED(status)) << status;
  EXPECT_NE(Read(text_).find("| first |\n"), std::string::npos) << Read(text_);
  const nlohmann::json left = nlohmann::json::parse(Read(json_));
  EXPECT_EQ(left["complete"], false);
  ASSERT_EQ(left["rows"].size(), 1) << left;
  EXPECT_EQ(left["rows"][0]["median_us"], 1.5);
}

TEST_F(BenchRowsTest, ACompleteRunSaysSo) {
  const int status = Run(/*aborts=*/false, json_);
  ASSERT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  const nlohmann::json all = nlohmann::json::parse(Read(json_));
  EXPECT_EQ(all["complete"], true);
  EXPECT_EQ(all["rows"].size(), 2) << all;
  EXPECT_EQ(access((json_ + ".part").c_str(), F_OK), -1) << "a file of its making is left";
}

TEST_F(BenchRowsTest, AFileThatCannotBeWrittenIsAFailure) {
  const int status = Run(/*aborts=*/false, testing::TempDir() + "no such folder/json");
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 1) << status;
}

}  // namespace
}  // namespace lombard::bench
