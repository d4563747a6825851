// Runs a program as a user would: arguments, standard input and environment in; exit code and both outputs
// out.
#pragma once

#include <map>
#include <string>
#include <vector>

namespace lombard {

struct ProgramResult {
  int code = -1;  // exit code, or 128 + signal
  std::string out, err;
};

// `environment` is added to this process's. Blocks until the program ends. Aborts when it cannot be started.
ProgramResult RunProgram(const std::vector<std::string>& argv, const std::string& input = "",
                         const std::map<std::string, std::string>& environment = {});

}  // namespace lombard
