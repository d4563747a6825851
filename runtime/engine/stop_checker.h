// When a sequence ends, and with what text. Fed with generated tokens one by one; the same tokens always give
// the same end, so after a replay the state is rebuilt by pushing them again.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "runtime/engine/sampling_params.h"
#include "runtime/engine/stop_matcher.h"
#include "runtime/model/tokenizer/tokenizer.h"

namespace lombard {

// Not thread-safe. `tokenizer` is not owned and outlives this.
class StopChecker {
 public:
  StopChecker(const Tokenizer* tokenizer, const SamplingParams& params, absl::Span<const int32_t> eos_ids);

  // The next generated token. Returns "stop" (eos, stop id or stop string) or "length" (max_tokens) when it
  // is the last one.
  std::optional<std::string> Push(int32_t id);

  // What can be shown for certain: whole characters, nothing that may be the start of a stop string; once
  // ended, the whole text. The stop string and an eos or stop token's own text are left out.
  const std::string& text() const { return text_; }

 private:
  bool IsStopId(int32_t id) const;

  StreamDecoder decoder_;
  StopMatcher matcher_;
  std::vector<int32_t> eos_ids_, stop_ids_;
  uint32_t min_tokens_, max_tokens_, count_ = 0;
  std::string text_;
};

}  // namespace lombard
