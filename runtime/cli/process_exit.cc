#include "runtime/cli/process_exit.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace lombard {

std::optional<uint32_t> RankFromEnvironment() {
  // Slurm last: under mpirun inside an allocation its variable is that of the shell.
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"}) {
    uint32_t rank;
    const char* text = std::getenv(name);
    if (text != nullptr && absl::SimpleAtoi(text, &rank)) return rank;
  }
  return std::nullopt;
}

bool SpeaksForAll() { return RankFromEnvironment().value_or(0) == 0; }

void RecordExit(int code) {
  const char* directory = std::getenv("LOMBARD_RUN_DIR");
  if (directory == nullptr) return;
  const std::string path = absl::StrCat(directory, "/rank.", RankFromEnvironment().value_or(0), ".status");
  std::FILE* file = std::fopen(path.c_str(), "w");
  if (file == nullptr) return;
  std::fprintf(file, "%d\n", code);
  std::fclose(file);
}

void ExitAtOnce(const absl::Status& why, bool speaks, bool launched) {
  if (speaks) std::fprintf(stderr, "lombard: %s\n", std::string(why.message()).c_str());
  if (launched) RecordExit(1);
  std::fflush(nullptr);
  _exit(1);
}

void RecordLostRanks(const std::vector<int>& ranks) {
  const char* directory = std::getenv("LOMBARD_RUN_DIR");
  if (directory == nullptr || ranks.empty()) return;
  std::FILE* file = std::fopen(absl::StrCat(directory, "/lost").c_str(), "w");
  if (file == nullptr) return;
  for (int rank : ranks) std::fprintf(file, "%d\n", rank);
  std::fclose(file);
}

}  // namespace lombard
