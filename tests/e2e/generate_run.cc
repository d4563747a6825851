#include "tests/e2e/generate_run.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace lombard {

std::string NewFolder() {
  std::string path = (std::filesystem::temp_directory_path() / "lombard-test-XXXXXX").string();
  CHECK(mkdtemp(path.data()) != nullptr);
  return path;
}

std::string ReadAll(const std::string& path) {
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

void WriteAll(const std::string& path, const std::string& text) { std::ofstream(path) << text; }

GenerateRun RunGenerateProgram(int ranks, const std::string& model, const std::string& input,
                               const std::vector<std::string>& args, const std::string& binary) {
  const std::string folder = NewFolder();
  WriteAll(folder + "/in.jsonl", input);
  std::vector<std::string> argv = {binary};
  if (ranks > 0) argv = {"launch/run", "-n", absl::StrCat(ranks)};
  for (const char* arg : {"generate", "--model"}) argv.push_back(arg);
  argv.push_back(model);
  for (const std::string& arg : {std::string("--input"), folder + "/in.jsonl", std::string("--output"),
                                 folder + "/out.jsonl", std::string("--report"), folder + "/report"}) {
    argv.push_back(arg);
  }
  argv.insert(argv.end(), args.begin(), args.end());
  // Nobody is lost in these runs, however busy the machine is with other tests.
  if (ranks > 1 && std::find(args.begin(), args.end(), "--dead-after") == args.end())
    argv.insert(argv.end(), {"--dead-after", "30s"});
  GenerateRun run{.program = RunProgram(argv, "", {{"LOMBARD_BINARY", binary}}), .lines = {}, .report = {}};
  std::ifstream out(folder + "/out.jsonl");
  for (std::string line; std::getline(out, line);)
    run.lines.push_back(nlohmann::json::parse(line, nullptr, false));
  if (std::filesystem::exists(folder + "/report/report.json"))
    run.report = nlohmann::json::parse(ReadAll(folder + "/report/report.json"));
  std::filesystem::remove_all(folder);
  return run;
}

std::string GoldenInput(const std::vector<GoldenCase>& goldens) {
  std::string input;
  for (size_t i = 0; i < goldens.size(); ++i) {
    const nlohmann::json line = {{"id", i},
                                 {"prompt", goldens[i].prompt_ids},
                                 {"max_tokens", goldens[i].greedy_ids.size()},
                                 {"temperature", 0},
                                 {"ignore_eos", true},
                                 {"logprobs", 0}};
    absl::StrAppend(&input, line.dump(), "\n");
  }
  return input;
}

std::string GoldenMismatches(const std::vector<GoldenCase>& goldens, const GenerateRun& run, double bound) {
  if (run.program.code != 0) return absl::StrCat("exit code ", run.program.code, ": ", run.program.err);
  if (run.lines.size() != goldens.size())
    return absl::StrCat(run.lines.size(), " lines for ", goldens.size(), " requests");
  std::string wrong;
  for (size_t i = 0; i < goldens.size(); ++i) {
    const nlohmann::json& line = run.lines[i];
    const std::string mismatch =
        line.contains("error") ? line.dump() : GoldenMismatch(goldens[i], line["token_ids"], bound);
    if (!mismatch.empty()) absl::StrAppend(&wrong, "case ", i, ": ", mismatch, "\n");
  }
  return wrong;
}

}  // namespace lombard
