// Answers of one run against those of another, by the rule of results: the same tokens, or a first difference
// where the choice was as good as open.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace lombard {

enum class SameAnswer { kEqual, kAsLikely, kWrong };

// Two output lines of `lombard generate` for one greedy request with logprobs. kEqual: the same tokens.
// kAsLikely: up to the first difference the tokens' log probabilities are within `bound`, and so are those of
// the two tokens there (0.001 for fp32, 0.05 for bf16). Else kWrong, and `why` says what differs.
SameAnswer CompareAnswers(const nlohmann::json& right, const nlohmann::json& answer, double bound,
                          std::string* why);

}  // namespace lombard
