// `lombard generate` on files of a temporary folder.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/support/golden_file.h"
#include "tests/support/run_program.h"

namespace lombard {

struct GenerateRun {
  ProgramResult program;
  std::vector<nlohmann::json> lines;  // of the output file; what does not parse is null
  nlohmann::json report;              // null when there is none
};

// `binary` is lombard, or another build of it. `ranks` 0: the binary alone; otherwise launch/run -n ranks. Files are made in a new folder below the
// system's temporary one.
GenerateRun RunGenerateProgram(int ranks, const std::string& model, const std::string& input,
                               const std::vector<std::string>& args,
                               const std::string& binary = LOMBARD_BINARY);

// One line per case: the prompt's ids, as many greedy tokens as the golden has, eos ignored.
std::string GoldenInput(const std::vector<GoldenCase>& goldens);

// Every case whose ids break the rule, in words; empty when none does.
std::string GoldenMismatches(const std::vector<GoldenCase>& goldens, const GenerateRun& run, double bound);

std::string ReadAll(const std::string& path);
void WriteAll(const std::string& path, const std::string& text);
std::string NewFolder();

}  // namespace lombard
