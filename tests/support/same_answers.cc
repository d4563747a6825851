#include "tests/support/same_answers.h"

#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"

namespace lombard {

SameAnswer CompareAnswers(const nlohmann::json& right, const nlohmann::json& answer, double bound,
                          std::string* why) {
  for (const nlohmann::json* line : {&right, &answer}) {
    if (line->is_object() && line->contains("token_ids") && line->contains("logprobs")) continue;
    *why = absl::StrCat("no tokens: ", line->dump());
    return SameAnswer::kWrong;
  }
  const std::vector<int32_t> a = right["token_ids"], b = answer["token_ids"];
  const std::vector<double> p = right["logprobs"]["token_logprobs"], q = answer["logprobs"]["token_logprobs"];
  if (a.size() != b.size() || p.size() != a.size() || q.size() != b.size()) {
    *why = absl::StrCat(b.size(), " tokens instead of ", a.size());
    return SameAnswer::kWrong;
  }
  for (size_t t = 0; t < a.size(); ++t) {
    if (std::abs(p[t] - q[t]) > bound) {
      *why = absl::StrCat("token ", t, ": ", a[t], " (", p[t], ") became ", b[t], " (", q[t], ")");
      return SameAnswer::kWrong;
    }
    if (a[t] != b[t]) return SameAnswer::kAsLikely;
  }
  return SameAnswer::kEqual;
}

}  // namespace lombard
