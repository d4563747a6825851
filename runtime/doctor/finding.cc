#include "runtime/doctor/finding.h"

#include <algorithm>
#include <array>

#include "absl/strings/str_format.h"

namespace lombard::doctor {

void Print(const Findings& findings, std::ostream& out) {
  constexpr const char* kNames[] = {"ok", "warning", "problem"};
  std::array<int, 3> count = {};
  for (const Finding& finding : findings) {
    const int level = static_cast<int>(finding.level);
    ++count[level];
    out << absl::StrFormat("%-8s %-13s %s\n", kNames[level], finding.topic, finding.text);
    if (!finding.remedy.empty()) out << absl::StrFormat("%22s remedy: %s\n", "", finding.remedy);
  }
  out << absl::StrFormat("summary: %d ok, %d warnings, %d problems\n", count[0], count[1], count[2]);
}

bool HasProblem(const Findings& findings) {
  return std::any_of(findings.begin(), findings.end(),
                     [](const Finding& finding) { return finding.level == Level::kProblem; });
}

}  // namespace lombard::doctor
