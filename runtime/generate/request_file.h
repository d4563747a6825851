// The input of `lombard generate`: JSON lines, each one request or one error. What is wrong with a line
// concerns that line alone: it becomes an entry with `error`, and the others go on.
//
// Plain form:  {"prompt": "text" or [ids], "id"?: string or number, sampling fields...}
// Batch form:  {"custom_id": "...", "method"?: "POST", "url": "/v1/completions",
//               "body": {"prompt": ..., sampling fields...}}
//              (the OpenAI batch file; the body's `model` is not looked at)
// Sampling fields: those of SamplingParams by name (stop: a string or a list; logprobs: a number, or true for
// 0; null: default), and add_special_tokens. A prompt given as a list of one is that one. Fields that would
// change the answer and are not supported are refused by name (echo, suffix, logit_bias, best_of above n,
// response_format...); other unknown fields are ignored, as OpenAI-compatible servers do. Chat (messages,
// /v1/chat/completions) is refused: it needs a chat template. Blank lines are skipped. Error messages start
// with "line N: ", N counted from 1.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/engine/sampling_params.h"

namespace lombard {

// What the output line says: {"error": {"type", "message"}}. Types are those of the OpenAI API.
struct RequestError {
  std::string type = "invalid_request_error";  // or "server_error": not the request's fault
  std::string message;
  bool operator==(const RequestError&) const = default;
};

struct GenerateRequest {
  std::string
      id_json;  // the id as JSON text, quotes included: "\"a\"" or "7"; "\"line-N\"" when the line names none
  uint64_t line = 0;  // from 1
  std::variant<std::string, std::vector<int32_t>> prompt;
  bool add_special_tokens = true;  // of a text prompt: BOS and EOS as the tokenizer's post-processor says
  SamplingParams sampling;
  std::string cache_salt;             // KV is shared only between requests of equal salt
  std::optional<RequestError> error;  // set: nothing else but id_json and line counts
};

// What lines that say nothing get. Without a seed in flag and line, each line's seed is drawn from its line
// number, so that a repeated run gives the same answers and equal prompts still differ.
struct RequestDefaults {
  SamplingParams sampling;
  std::optional<uint64_t> seed;
};

// The request on one line; never fails, errors are in the result.
GenerateRequest ParseRequestLine(absl::string_view text, uint64_t line, const RequestDefaults& defaults);

// All lines, in order. An id used by an earlier line is an error of the later one.
std::vector<GenerateRequest> ParseRequests(absl::string_view text, const RequestDefaults& defaults);

// Reads the whole file. kNotFound or another code with the path when it cannot be read.
absl::StatusOr<std::vector<GenerateRequest>> ReadRequestFile(const std::string& path,
                                                             const RequestDefaults& defaults);

}  // namespace lombard
