#include "tests/support/golden_file.h"

#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace lombard {

std::vector<GoldenCase> ReadGoldens(const std::string& path) {
  std::ifstream file(path);
  std::vector<GoldenCase> cases;
  CHECK(file.is_open()) << path << " is not there";
  if (absl::EndsWith(path, ".jsonl")) {
    for (std::string line; std::getline(file, line);) {
      const nlohmann::json c = nlohmann::json::parse(line);
      GoldenCase golden{c["prompt_ids"], c["greedy_ids"], {}};
      golden.gaps.assign(golden.greedy_ids.size(), c["min_gap"]);
      cases.push_back(std::move(golden));
    }
    CHECK(!cases.empty()) << path;
    return cases;
  }
  const nlohmann::json json = nlohmann::json::parse(file);
  for (const auto& c : json["cases"]) cases.push_back({c["prompt_ids"], c["greedy_ids"], c["top1_top2_gap"]});
  CHECK(!cases.empty()) << path;
  return cases;
}

std::string GoldenMismatch(const GoldenCase& golden, const std::vector<int32_t>& ids, double bound) {
  if (ids.size() != golden.greedy_ids.size())
    return absl::StrCat(ids.size(), " ids, expected ", golden.greedy_ids.size());
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] == golden.greedy_ids[i]) continue;
    if (golden.gaps[i] < bound) return "";
    return absl::StrCat("id ", i, " is ", ids[i], ", expected ", golden.greedy_ids[i], " with a gap of ",
                        golden.gaps[i]);
  }
  return "";
}

}  // namespace lombard
