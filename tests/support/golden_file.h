// Golden greedy ids with the gap between the two best logits at every step, and the rule by which a runtime
// may differ from them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace lombard {

struct GoldenCase {
  std::vector<int32_t> prompt_ids, greedy_ids;
  std::vector<double> gaps;  // as long as greedy_ids; for files with one gap per case, that one repeated
};

// tests/data/*-golden.json, ../shared/data/models/*golden.json, or *golden-batch64.jsonl.
// REQUIRES: the file is there and has cases.
std::vector<GoldenCase> ReadGoldens(const std::string& path);

// Empty when `ids` are the golden ones, or first differ at a step whose gap is below `bound`; else what is
// wrong.
std::string GoldenMismatch(const GoldenCase& golden, const std::vector<int32_t>& ids, double bound);

}  // namespace lombard
