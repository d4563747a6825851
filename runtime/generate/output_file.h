// The output of `lombard generate`: one JSON line per input line, in the order of the input, written as soon
// as the order allows.
//
//   ASSIGN_OR_RETURN(auto output, OutputFile::Create(path, resume, requests));
//   for (size_t i = 0; i < requests.size(); ++i) if (!output->done(i)) ... start it ...
//   RETURN_IF_ERROR(output->Put(i, result));   // any order of i
//   RETURN_IF_ERROR(output->Close());
//
// Line: {"id", "text", "token_ids", "finish_reason", "usage": {"prompt_tokens", "completion_tokens"},
// "timing": {"ttft_s", "tpot_s", "e2e_s"}}, with log-probabilities asked also "logprobs": {"token_logprobs":
// [...], "top_logprobs"?: [{"token_id:5": -0.1}, ...]}. With n > 1 also "choices": [{"index", "text",
// "token_ids", "finish_reason", "logprobs"?}]; the fields outside are then those of choice 0, and
// completion_tokens counts all choices. A failed request: {"id", "error": {"type", "message"}}.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "runtime/generate/request_file.h"

namespace lombard {

// One of the n samples of a request.
struct SampleResult {
  std::string text;
  std::vector<int32_t> token_ids;  // the generated ones, stop token included
  std::string finish_reason;       // "stop" or "length"
  // As long as token_ids when log-probabilities were asked, else empty.
  std::vector<float> token_logprobs;
  std::vector<std::vector<std::pair<int32_t, float>>> top_logprobs;
};

struct GenerateResult {
  std::optional<RequestError> error;  // set: the rest does not count
  bool logprobs = false;              // they were asked
  std::vector<SampleResult> samples;  // params.n of them
  uint64_t prompt_tokens = 0;
  double ttft_s = 0;  // from the request's arrival to its first token
  double tpot_s = 0;  // per output token after the first; 0 when there is one only
  double e2e_s = 0;
};

// Without the line end. REQUIRES: error or at least one sample.
std::string ResultLine(const std::string& id_json, const GenerateResult& result);

// One thread at a time. A line is in the file (not merely in a buffer of ours) when the Put that completed
// the order returns.
class OutputFile {
 public:
  // Creates or empties the file; with `resume` keeps it, cuts off a half-written last line, and marks as done
  // the requests whose ids it holds. Error lines count as done. kInvalidArgument: an earlier line is not of
  // this form.
  static absl::StatusOr<std::unique_ptr<OutputFile>> Create(const std::string& path, bool resume,
                                                            absl::Span<const GenerateRequest> requests);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  bool done(size_t index) const { return done_[index]; }  // was in the file when it was opened
  size_t done_count() const;

  // REQUIRES: not done, not put before. Errors (disk full) name the path and stay: later calls return the
  // same.
  absl::Status Put(size_t index, const GenerateResult& result);

  // kFailedPrecondition when requests have no line; else what closing the file says.
  absl::Status Close();
  size_t lines() const { return next_; }  // in the file, without a gap

 private:
  OutputFile(std::string path, int fd, absl::Span<const GenerateRequest> requests);
  absl::Status KeepWrittenLines(absl::Span<const GenerateRequest> requests);
  absl::Status WriteAll(absl::string_view bytes);

  std::string path_;
  int fd_;
  std::vector<std::string> ids_;
  std::vector<bool> done_;
  size_t next_ = 0;                      // the first request whose line is not in the file
  std::map<size_t, std::string> ready_;  // lines that wait for an earlier one
  absl::Status status_;
};

// kInvalidArgument when both paths are the same existing file: opening the output would destroy the input.
absl::Status CheckDifferentFiles(const std::string& input, const std::string& output);

}  // namespace lombard
