// `lombard generate` at the front door: requests in, result lines and report out.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/config/options.h"
#include "runtime/generate/output_file.h"
#include "runtime/generate/request_file.h"
#include "runtime/job/job.h"
#include "runtime/model/tokenizer/tokenizer.h"

namespace lombard {

// What the front door opens before the workers start, so that a wrong path costs nothing.
struct BatchFiles {
  std::vector<GenerateRequest> requests;
  std::unique_ptr<OutputFile> output;
};
absl::StatusOr<BatchFiles> OpenBatchFiles(const GenerateOptions& options);

// Runs every request that has no line yet, ends the job, writes the report and prints a summary to standard
// error. The error is the job's or the output file's; a request's own error is a line of the output.
absl::Status RunBatch(const GenerateOptions& options, const Tokenizer& tokenizer, int vocab_size,
                      BatchFiles& files, Job& job);

}  // namespace lombard
