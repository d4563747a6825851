// The front door of a batch job, at rank 0: gives sequences to instances, takes their tokens, ends the job.
//
//   Job job(instances, clock);
//   job.Attach(worker);                        // rank 0's
//   uint64_t number = job.Submit(prompt, sampling, sample_index);
//   while (job.Wait(deadline, &done) ...)      // finished sequences, in the order they finish
//   ASSIGN_OR_RETURN(auto reports, job.End(deadline));
//
// Submit, Wait and End belong to the caller's thread; the FrontDoor calls come from the worker's progress
// thread.
#pragma once

#include <condition_variable>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "gmanager/router.h"
#include "runtime/engine/sequence.h"
#include "runtime/worker/worker.h"

namespace lombard {

// What became of one sequence. Times are seconds on the front door's clock.
struct SequenceResult {
  uint64_t number = 0;
  std::vector<int32_t> token_ids;
  std::vector<float> logprobs;
  std::vector<std::vector<std::pair<int32_t, float>>> top_logprobs;
  std::string text, finish_reason;
  absl::Status error;
  uint32_t prompt_tokens = 0;
  double submitted_s = 0;
  std::vector<double> token_s;  // when each token came
  double finished_s = 0;
};

struct JobProgress {
  std::vector<uint64_t> kv_used, kv_lent;  // tokens, by rank
  uint64_t tokens = 0;                     // generated so far
  size_t sequences_done = 0, sequences = 0;
};

class Job final : public FrontDoor {
 public:
  Job(const std::vector<Router::Instance>& instances, const Clock* clock);
  void Attach(Worker* worker) { worker_ = worker; }  // before the first Submit

  // Returns the sequence's number. kUnavailable: the job has failed.
  // `home`: the instance, instead of the router's choice.
  absl::StatusOr<uint64_t> Submit(std::vector<int32_t> prompt, const SamplingParams& sampling,
                                  uint32_t sample_index, std::string cache_salt = {},
                                  std::optional<InstanceId> home = {});
  // Sequences that finished since the last call; waits up to `wait` for one. The error is the job's failure.
  absl::StatusOr<std::vector<SequenceResult>> Wait(absl::Duration wait);
  JobProgress progress() const;
  uint64_t capacity_tokens(int rank) const { return capacity_tokens_[rank]; }
  // Everyone gives back what is lent, reports, and is told to leave. The reports are by rank.
  absl::StatusOr<std::vector<messages::WorkerReport>> End(absl::Duration deadline);

  void OnTokens(int rank, const messages::TokenBatch& batch) override;
  void OnReport(int rank, const messages::WorkerReport& report) override;
  void OnJobFailed(const absl::Status& why) override;

 private:
  struct Open {
    SequenceResult result;
    InstanceId home{};
    uint64_t tokens_max = 0;
  };
  double Seconds() const { return absl::ToDoubleSeconds(clock_->Now() - start_); }

  const Clock* const clock_;
  const absl::Time start_;
  const int ranks_;
  std::vector<uint64_t> capacity_tokens_;
  Worker* worker_ = nullptr;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  Router router_;
  uint64_t next_number_ = 1;
  std::map<uint64_t, Open> open_;
  std::vector<SequenceResult> done_;
  JobProgress progress_;
  std::map<int, messages::WorkerReport> reports_;
  absl::Status failure_;
};

}  // namespace lombard
