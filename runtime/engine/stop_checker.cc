#include "runtime/engine/stop_checker.h"

#include <algorithm>

namespace lombard {

StopChecker::StopChecker(const Tokenizer* tokenizer, const SamplingParams& params,
                         absl::Span<const int32_t> eos_ids)
    : decoder_(*tokenizer, params.skip_special_tokens),
      matcher_(params.stop),
      stop_ids_(params.stop_token_ids),
      min_tokens_(params.min_tokens),
      max_tokens_(params.max_tokens) {
  if (!params.ignore_eos) eos_ids_.assign(eos_ids.begin(), eos_ids.end());
}

bool StopChecker::IsStopId(int32_t id) const {
  return std::find(eos_ids_.begin(), eos_ids_.end(), id) != eos_ids_.end() ||
         std::find(stop_ids_.begin(), stop_ids_.end(), id) != stop_ids_.end();
}

std::optional<std::string> StopChecker::Push(int32_t id) {
  ++count_;
  const bool stop_id = count_ > min_tokens_ && IsStopId(id);
  if (!stop_id) text_ += matcher_.Push(decoder_.Push(id), /*armed=*/count_ > min_tokens_);
  const bool last = stop_id || count_ >= max_tokens_;
  if (last && !matcher_.matched()) text_ += matcher_.Push(decoder_.Finish(), /*armed=*/count_ > min_tokens_);
  if (matcher_.matched()) return "stop";
  if (!last) return std::nullopt;
  text_ += matcher_.Finish();
  return stop_id ? "stop" : "length";
}

}  // namespace lombard
