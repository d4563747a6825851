#include "runtime/engine/sampling_params.h"

#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status.h"

namespace lombard {
namespace {

// Written so that NaN is outside of every range.
absl::Status CheckRange(absl::string_view field, double value, bool inside, absl::string_view range) {
  if (inside) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat("%s is %.15g; it must be %s", field, value, range));
}

}  // namespace

absl::Status SamplingParams::Validate() const {
  constexpr uint32_t kTokensMax = std::numeric_limits<int32_t>::max();
  RETURN_IF_ERROR(CheckRange("max_tokens", max_tokens, max_tokens >= 1 && max_tokens <= kTokensMax,
                             "between 1 and 2147483647"));
  RETURN_IF_ERROR(CheckRange("min_tokens", min_tokens, min_tokens <= max_tokens,
                             absl::StrCat("between 0 and max_tokens, which is ", max_tokens)));
  RETURN_IF_ERROR(
      CheckRange("temperature", temperature, temperature >= 0 && temperature <= 100, "between 0 and 100"));
  RETURN_IF_ERROR(CheckRange("top_k", top_k, top_k >= -1, "at least 1, or 0 or -1 for all tokens"));
  RETURN_IF_ERROR(CheckRange("top_p", top_p, top_p > 0 && top_p <= 1, "above 0 and at most 1"));
  RETURN_IF_ERROR(CheckRange("min_p", min_p, min_p >= 0 && min_p <= 1, "between 0 and 1"));
  RETURN_IF_ERROR(CheckRange("repetition_penalty", repetition_penalty,
                             repetition_penalty > 0 && repetition_penalty <= 1e6,
                             "above 0 and at most 1e6 (1: none)"));
  RETURN_IF_ERROR(CheckRange("presence_penalty", presence_penalty,
                             presence_penalty >= -2 && presence_penalty <= 2, "between -2 and 2"));
  RETURN_IF_ERROR(CheckRange("frequency_penalty", frequency_penalty,
                             frequency_penalty >= -2 && frequency_penalty <= 2, "between -2 and 2"));
  if (logprobs) {
    RETURN_IF_ERROR(CheckRange("logprobs", *logprobs, *logprobs >= 0 && *logprobs <= kTopLogprobsMax,
                               absl::StrCat("between 0 and ", kTopLogprobsMax)));
  }
  RETURN_IF_ERROR(
      CheckRange("n", n, n >= 1 && n <= kSampleCountMax, absl::StrCat("between 1 and ", kSampleCountMax)));
  RETURN_IF_ERROR(CheckRange("the number of stop strings", stop.size(), stop.size() <= kStopStringsMax,
                             absl::StrCat("at most ", kStopStringsMax)));
  for (const std::string& text : stop) {
    RETURN_IF_ERROR(CheckRange("the length in bytes of a stop string", text.size(),
                               !text.empty() && text.size() <= kStopStringBytesMax,
                               absl::StrCat("between 1 and ", kStopStringBytesMax)));
  }
  for (const int32_t id : stop_token_ids)
    RETURN_IF_ERROR(CheckRange("a stop token id", id, id >= 0, "0 or more"));
  return absl::OkStatus();
}

}  // namespace lombard
