// What a check has found out, and how findings are printed.
#pragma once

#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

namespace lombard::doctor {

enum class Level : uint8_t {
  kOk,
  kWarning,  // runs work, worse than they could
  kProblem,  // some kind of run cannot work
};

struct Finding {
  Level level = Level::kOk;
  std::string topic;   // a word or two, first column
  std::string text;    // what was found, with values
  std::string remedy;  // what to do; empty when ok
};

using Findings = std::vector<Finding>;

void Print(const Findings& findings, std::ostream& out);
bool HasProblem(const Findings& findings);

}  // namespace lombard::doctor
