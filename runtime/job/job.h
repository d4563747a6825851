// The front door of a batch job, at rank 0: gives sequences to instances, takes their tokens, ends the job.
//
//   Job job(instances, clock);
//   job.Attach(worker);                        // rank 0's
//   uint64_t number = job.Submit(prompt, sampling, sample_index);
//   while (job.Wait(deadline, &done) ...)      // finished sequences, in the order they finish
//   ASSIGN_OR_RETURN(auto reports, job.End(deadline));
//
// Submit, Wait and End belong to the caller's thread; the FrontDoor calls come from the worker's threads.
#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "runtime/engine/sequence.h"
#include "runtime/job/dispatcher.h"
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

// What was delivered in one interval of the job, and by how many workers.
struct TimelineEntry {
  double start_s = 0, seconds = 0;
  uint64_t tokens = 0;
  int workers = 0;                         // that belonged at its end
  std::vector<uint64_t> kv_used, kv_lent;  // tokens at its end, by rank
};

struct JobProgress {
  std::vector<uint64_t> kv_used, kv_lent;  // tokens, by rank
  uint64_t tokens = 0;                     // generated so far
  size_t sequences_done = 0, sequences = 0;
};

class Job final : public FrontDoor {
 public:
  Job(const std::vector<Router::Instance>& instances, const Clock* clock,
      const Dispatcher::Options& options = {});
  void Attach(Worker* worker) { worker_ = worker; }  // before the first Submit

  // Returns the sequence's number. kUnavailable: the job has failed.
  // `home`: the instance, instead of the router's choice.
  absl::StatusOr<uint64_t> Submit(std::vector<int32_t> prompt, const SamplingParams& sampling,
                                  uint32_t sample_index, std::string cache_salt = {},
                                  std::optional<InstanceId> home = {});
  // Sequences that finished since the last call; waits up to `wait` for one. The error is the job's failure.
  absl::StatusOr<std::vector<SequenceResult>> Wait(absl::Duration wait);
  JobProgress progress() const;
  uint64_t capacity_tokens(int rank) const;
  // From the first to the last token, in at most kTimelineMax equal intervals.
  std::vector<TimelineEntry> timeline() const {
    std::lock_guard lock(mutex_);
    return timeline_;
  }
  static constexpr size_t kTimelineMax = 240;
  // Nobody may join any more, as the job ends.
  bool ending() const {
    std::lock_guard lock(mutex_);
    return ending_;
  }
  // Asked on the manager thread as of FrontDoor::OnDoor. Before the worker starts.
  void set_door(std::function<bool(GManager*, absl::Time)> door) { door_ = std::move(door); }
  // Any thread: somebody wants the job to end before its requests have. Wait returns at once from now on.
  void Interrupt();
  bool interrupted() const {
    std::lock_guard lock(mutex_);
    return interrupted_;
  }
  // The requests that are not done are given up; none of them has an output. Then End.
  void CancelAll();
  // Everyone gives back what is lent, reports, and is told to leave. The reports are by rank, of all its
  // processes that reported; those of lost ranks have their capacity and nothing else.
  absl::StatusOr<std::vector<messages::WorkerReport>> End(absl::Duration deadline);
  std::vector<int> lost_ranks() const;  // lost, and nobody came in their place
  std::vector<int> ever_lost_ranks() const;
  uint32_t joined_count() const {
    std::lock_guard lock(mutex_);
    return joined_;
  }
  uint32_t left_count() const {
    std::lock_guard lock(mutex_);
    return left_;
  }
  Dispatcher::Counters dispatch_counters() const;
  // Seconds from a sequence's last token before a loss to its next one.
  struct Pauses {
    std::vector<double> affected;  // that lost KV or their home
    std::vector<double> others;    // running ones, when a rank was lost
  };
  Pauses pauses() const;

  void OnTokens(int rank, uint64_t incarnation, const messages::TokenBatch& batch) override;
  void OnHandBack(int rank, uint64_t incarnation, const messages::HandBack& back) override;
  void OnMembers(const std::vector<Membership::Member>& members) override;
  bool OnDoor(GManager* gmanager, absl::Time now) override { return door_ && door_(gmanager, now); }
  std::vector<int> OnTick() override;
  void OnReport(int rank, const messages::WorkerReport& report) override;
  void OnJobFailed(const absl::Status& why) override;

 private:
  // Takes the dispatcher's messages and outputs under the lock; the messages are sent after it.
  std::vector<Outgoing> CollectLocked();
  void Send(std::vector<Outgoing> outgoing);
  void CountLocked(uint64_t tokens, double now);
  int WorkersLocked() const;
  double Seconds() const { return absl::ToDoubleSeconds(clock_->Now() - start_); }

  const Clock* const clock_;
  const absl::Time start_;
  const int ranks_;
  std::vector<uint64_t> capacity_tokens_;
  const std::function<Router::Instance(uint32_t)> size_of_;
  std::function<bool(GManager*, absl::Time)> door_;
  Worker* worker_ = nullptr;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  Dispatcher dispatcher_;
  uint64_t next_number_ = 1;
  std::map<uint64_t, SequenceResult> open_;
  std::vector<SequenceResult> done_;
  JobProgress progress_;
  double last_loss_s_ = -1;  // when a rank was declared lost
  Pauses pauses_;
  struct Rank {
    Membership::State state = Membership::State::kVacant;
    uint64_t process = 0;
    bool reported = false;                         // this process
    bool ever_lost = false;                        // some process of the rank
    std::optional<messages::WorkerReport> report;  // of all processes so far
  };
  std::vector<Rank> states_;
  bool ending_ = false, interrupted_ = false;
  uint32_t joined_ = 0, left_ = 0;
  std::vector<TimelineEntry> timeline_;
  double interval_s_ = 0.25;
  absl::Status failure_;
};

}  // namespace lombard
