// Goal: the program as users meet it: exit codes, messages, what it prints where. Method: runs the built
// binary.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "tests/support/run_program.h"
#include "tests/support/temp_dir.h"

namespace lombard {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

ProgramResult Lombard(std::vector<std::string> args, const std::string& input = "",
                      const std::map<std::string, std::string>& environment = {}) {
  args.insert(args.begin(), LOMBARD_BINARY);
  return RunProgram(args, input, environment);
}

TEST(Cli, HelpAndVersionGoToStandardOutput) {
  const ProgramResult version = Lombard({"--version"});
  EXPECT_EQ(version.code, 0);
  EXPECT_THAT(version.out, StartsWith("lombard "));
  EXPECT_EQ(version.err, "");
  for (const std::vector<std::string>& command : {std::vector<std::string>{},
                                                  {"generate"},
                                                  {"model"},
                                                  {"model", "create"},
                                                  {"model", "inspect"},
                                                  {"model", "tokenize"},
                                                  {"doctor"}}) {
    std::vector<std::string> args = command;
    args.push_back("--help");
    const ProgramResult help = Lombard(args);
    EXPECT_EQ(help.code, 0);
    EXPECT_THAT(help.out, HasSubstr("Usage: lombard"));
    EXPECT_EQ(help.err, "");
  }
}

TEST(Cli, AWrongCommandLineIsExitCode2AndSaysSoOnStandardError) {
  struct Case {
    std::vector<std::string> args;
    const char* mentions;
  };
  const std::vector<std::string> generate = {"generate", "--model", "m", "--input", "i", "--output", "o"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), generate.begin(), generate.end());
    return more;
  };
  for (const Case& c : {Case{{}, "generate"},
                        {{"frobnicate"}, "'frobnicate'"},
                        {{"--frobnicate"}, "'--frobnicate'"},
                        {with({"--frobnicate"}), "'--frobnicate'"},
                        {with({"--max-tokens", "many"}), "'many'"},
                        {with({"--kv-bytes", "64MoB"}), "'64MoB'"},
                        {{"generate", "--model", "m"}, "--input"}}) {
    const ProgramResult result = Lombard(c.args);
    EXPECT_EQ(result.code, 2) << c.mentions;
    EXPECT_EQ(result.out, "");
    EXPECT_THAT(result.err, HasSubstr(c.mentions));
    EXPECT_THAT(result.err, HasSubstr("--help"));
  }
}

TEST(Cli, OnlyRankZeroSpeaksButEveryRankExitsRight) {
  const TempDir run_dir;
  const std::string& directory = run_dir.path();
  for (const char* rank : {"0", "3"}) {
    for (const char* variable : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "SLURM_PROCID"}) {
      const ProgramResult result =
          Lombard({"frobnicate"}, "", {{variable, rank}, {"LOMBARD_RUN_DIR", directory}});
      EXPECT_EQ(result.code, 2);
      EXPECT_EQ(result.err.empty(), rank[0] != '0') << variable << ": " << result.err;
      EXPECT_EQ(*ReadWholeFile(absl::StrCat(directory, "/rank.", rank, ".status")), "2\n");
    }
  }
  EXPECT_EQ(Lombard({"--version"}, "", {{"OMPI_COMM_WORLD_RANK", "1"}, {"SLURM_PROCID", "0"}}).out, "")
      << "mpirun's variable counts before that of the allocation it runs in";
}

TEST(Cli, AFullStandardOutputIsAnError) {
  const ProgramResult result =
      RunProgram({"sh", "-c", absl::StrCat("exec ", LOMBARD_BINARY, " --help > /dev/full")});
  EXPECT_EQ(result.code, 1);
  EXPECT_THAT(result.err, HasSubstr("standard output"));
}

TEST(Cli, CreatesAModelThatInspectAndTokenizeRead) {
  const TempDir temp;
  const std::string directory = temp / "model";
  const ProgramResult create = Lombard({"model", "create", "--preset", "tiny", "--output", directory});
  EXPECT_EQ(create.code, 0) << create.err;
  const ProgramResult inspect = Lombard({"model", "inspect", directory});
  EXPECT_EQ(inspect.code, 0) << inspect.err;
  EXPECT_THAT(inspect.out, HasSubstr("KV"));
  EXPECT_EQ(Lombard({"model", "tokenize", directory}, "x").code, 0);
  const ProgramResult again = Lombard({"model", "create", "--preset", "tiny", "--output", directory});
  EXPECT_EQ(again.code, 1) << "a directory with a model is not written over";
  EXPECT_THAT(again.err, HasSubstr(directory));
}

TEST(Cli, AnUnknownPresetIsExitCode2AndListsThem) {
  const ProgramResult result = Lombard({"model", "create", "--preset", "huge", "--output", "/no/such/dir"});
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.err, HasSubstr("'huge'"));
  EXPECT_THAT(result.err, HasSubstr("llama-3.2-1b"));
}

TEST(Cli, InspectNamesWhatIsMissing) {
  const ProgramResult result = Lombard({"model", "inspect", "/no/such/model"});
  EXPECT_EQ(result.code, 1);
  EXPECT_THAT(result.err, HasSubstr("/no/such/model"));
}

TEST(Cli, TokenizePrintsAJsonArrayAndCountsEveryByte) {
  const ProgramResult empty = Lombard({"model", "tokenize", "tests/data/tiny"});
  EXPECT_EQ(empty.code, 0) << empty.err;
  EXPECT_EQ(empty.out, "[]\n");
  const ProgramResult line = Lombard({"model", "tokenize", "tests/data/tiny"}, "Once\n");
  EXPECT_EQ(line.code, 0) << line.err;
  const ProgramResult bare = Lombard({"model", "tokenize", "tests/data/tiny"}, "Once");
  EXPECT_THAT(line.out, StartsWith(bare.out.substr(0, bare.out.size() - 2)));
  EXPECT_GT(line.out.size(), bare.out.size()) << "the line end is input too";
}

TEST(Cli, ADirectoryWithoutTokenizerIsExitCode1WithThePath) {
  const ProgramResult result = Lombard({"model", "tokenize", "/no/such/model"}, "x");
  EXPECT_EQ(result.code, 1);
  EXPECT_EQ(result.out, "");
  EXPECT_THAT(result.err, HasSubstr("/no/such/model"));
}

TEST(Cli, DoctorLooksAtTheHost) {
  const ProgramResult result = Lombard({"doctor"});
  EXPECT_THAT(result.out, HasSubstr("cores"));
  EXPECT_THAT(result.out, HasSubstr("memory"));
}

}  // namespace
}  // namespace lombard
