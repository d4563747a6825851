#include "runtime/job/job.h"

#include "base/check.h"
#include "base/status.h"
#include "runtime/worker/convert.h"

namespace lombard {

Job::Job(const std::vector<Router::Instance>& instances, const Clock* clock)
    : clock_(clock), start_(clock->Now()), ranks_(static_cast<int>(instances.size())), router_(instances) {
  progress_.kv_used.resize(ranks_), progress_.kv_lent.resize(ranks_);
  for (const Router::Instance& instance : instances) capacity_tokens_.push_back(instance.capacity);
}

absl::StatusOr<uint64_t> Job::Submit(std::vector<int32_t> prompt, const SamplingParams& sampling,
                                     uint32_t sample_index, std::string cache_salt,
                                     std::optional<InstanceId> home_wanted) {
  CHECK(worker_ != nullptr);
  messages::ControlMessage message;
  int home;
  uint64_t number;
  {
    std::lock_guard lock(mutex_);
    if (!failure_.ok()) return failure_;
    number = next_number_++;
    const uint64_t tokens_max = prompt.size() + sampling.max_tokens;
    Open& open = open_[number];
    open.home = router_.Pick(tokens_max, home_wanted);
    open.tokens_max = tokens_max;
    open.result = {
        .number = number, .prompt_tokens = static_cast<uint32_t>(prompt.size()), .submitted_s = Seconds()};
    home = static_cast<int>(Value(open.home));
    ++progress_.sequences;
    const uint64_t arrival_us = static_cast<uint64_t>(absl::ToInt64Microseconds(clock_->Now() - start_));
    ToMessage(SequenceRequest{.id = {.arrival_us = arrival_us, .number = number},
                              .prompt = std::move(prompt),
                              .sampling = sampling,
                              .sample_index = sample_index,
                              .cache_salt = std::move(cache_salt)},
              message.mutable_submit());
  }
  RETURN_IF_ERROR(worker_->SendControl(home, message));
  return number;
}

absl::StatusOr<std::vector<SequenceResult>> Job::Wait(absl::Duration wait) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, absl::ToChronoMilliseconds(wait),
                    [this] { return !failure_.ok() || !done_.empty() || open_.empty(); });
  if (!done_.empty()) return std::exchange(done_, {});  // what was finished before a failure still counts
  if (!failure_.ok()) return failure_;
  return std::vector<SequenceResult>{};
}

JobProgress Job::progress() const {
  std::lock_guard lock(mutex_);
  return progress_;
}

absl::StatusOr<std::vector<messages::WorkerReport>> Job::End(absl::Duration deadline) {
  messages::ControlMessage drain, leave;
  drain.mutable_drain();
  leave.mutable_leave();
  for (int rank = 0; rank < ranks_; ++rank) RETURN_IF_ERROR(worker_->SendControl(rank, drain));
  std::vector<messages::WorkerReport> reports;
  {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, absl::ToChronoMilliseconds(deadline),
                      [this] { return !failure_.ok() || static_cast<int>(reports_.size()) == ranks_; });
    if (!failure_.ok()) return failure_;
    for (int rank = 0; rank < ranks_; ++rank) {
      const auto it = reports_.find(rank);
      if (it == reports_.end()) {
        return absl::DeadlineExceededError(absl::StrCat("rank ", rank, " did not report within ",
                                                        absl::FormatDuration(deadline),
                                                        " after the last request"));
      }
      reports.push_back(it->second);
    }
  }
  for (int rank = ranks_ - 1; rank >= 0; --rank) RETURN_IF_ERROR(worker_->SendControl(rank, leave));
  return reports;
}

void Job::OnTokens(int rank, const messages::TokenBatch& batch) {
  std::lock_guard lock(mutex_);
  const double now = Seconds();
  progress_.kv_used[rank] = batch.kv_tokens_used();
  progress_.kv_lent[rank] = batch.kv_tokens_lent();
  for (const messages::TokenEvent& event : batch.events()) {
    const auto it = open_.find(event.number());
    if (it == open_.end()) continue;
    SequenceOutput output = FromMessage(event);
    SequenceResult& result = it->second.result;
    if (output.token.has_value()) {
      result.token_ids.push_back(*output.token);
      result.logprobs.push_back(output.logprob);
      result.top_logprobs.push_back(std::move(output.top_logprobs));
      result.token_s.push_back(now);
      ++progress_.tokens;
    }
    if (!output.finished) continue;
    result.text = std::move(output.text);
    result.finish_reason = std::move(output.finish_reason);
    result.error = output.error;
    result.finished_s = now;
    router_.Done(it->second.home, it->second.tokens_max);
    ++progress_.sequences_done;
    done_.push_back(std::move(result));
    open_.erase(it);
  }
  changed_.notify_all();
}

void Job::OnReport(int rank, const messages::WorkerReport& report) {
  std::lock_guard lock(mutex_);
  reports_[rank] = report;
  changed_.notify_all();
}

void Job::OnJobFailed(const absl::Status& why) {
  std::lock_guard lock(mutex_);
  if (failure_.ok()) failure_ = why;
  changed_.notify_all();
}

}  // namespace lombard
