#include "runtime/job/job.h"

#include "base/check.h"
#include "base/status.h"
#include "runtime/worker/convert.h"

namespace lombard {

Job::Job(const std::vector<Router::Instance>& instances, const Clock* clock,
         const Dispatcher::Options& options)
    : clock_(clock),
      start_(clock->Now()),
      ranks_(static_cast<int>(instances.size())),
      dispatcher_(instances, options),
      alive_(instances.size(), true) {
  progress_.kv_used.resize(ranks_), progress_.kv_lent.resize(ranks_);
  for (const Router::Instance& instance : instances) capacity_tokens_.push_back(instance.capacity);
}

absl::StatusOr<uint64_t> Job::Submit(std::vector<int32_t> prompt, const SamplingParams& sampling,
                                     uint32_t sample_index, std::string cache_salt,
                                     std::optional<InstanceId> home) {
  CHECK(worker_ != nullptr);
  std::unique_lock lock(mutex_);
  if (!failure_.ok()) return failure_;
  const uint64_t number = next_number_++;
  open_[number] = {
      .number = number, .prompt_tokens = static_cast<uint32_t>(prompt.size()), .submitted_s = Seconds()};
  ++progress_.sequences;
  const absl::Time now = clock_->Now();
  dispatcher_.Submit(
      SequenceRequest{.id = {.arrival_us = static_cast<uint64_t>(absl::ToInt64Microseconds(now - start_)),
                             .number = number},
                      .prompt = std::move(prompt),
                      .sampling = sampling,
                      .sample_index = sample_index,
                      .cache_salt = std::move(cache_salt)},
      now, home);
  std::vector<Outgoing> outgoing = CollectLocked();
  lock.unlock();
  Send(std::move(outgoing));
  return number;
}

void Job::Send(std::vector<Outgoing> outgoing) {
  // A worker that cannot be reached is lost soon, and its requests go elsewhere.
  for (const Outgoing& out : outgoing) worker_->SendControl(out.to, out.message).IgnoreError();
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
  for (int rank = 0; rank < ranks_; ++rank) worker_->SendControl(rank, drain).IgnoreError();
  std::vector<messages::WorkerReport> reports(static_cast<size_t>(ranks_));
  {
    std::unique_lock lock(mutex_);
    const auto missing = [this]() -> std::optional<int> {
      for (int rank = 0; rank < ranks_; ++rank) {
        if (alive_[rank] && !reports_.contains(rank)) return rank;
      }
      return std::nullopt;
    };
    changed_.wait_for(lock, absl::ToChronoMilliseconds(deadline),
                      [&] { return !failure_.ok() || !missing().has_value(); });
    if (!failure_.ok()) return failure_;
    if (const auto rank = missing(); rank.has_value()) {
      return absl::DeadlineExceededError(absl::StrCat("rank ", *rank, " did not report within ",
                                                      absl::FormatDuration(deadline),
                                                      " after the last request"));
    }
    for (int rank = 0; rank < ranks_; ++rank) {
      reports[rank].set_kv_capacity(capacity_tokens_[rank]);
      if (const auto it = reports_.find(rank); it != reports_.end()) reports[rank] = it->second;
    }
  }
  for (int rank = ranks_ - 1; rank >= 0; --rank) worker_->SendControl(rank, leave).IgnoreError();
  return reports;
}

std::vector<int> Job::lost_ranks() const {
  std::lock_guard lock(mutex_);
  std::vector<int> lost;
  for (int rank = 0; rank < ranks_; ++rank) {
    if (!alive_[rank]) lost.push_back(rank);
  }
  return lost;
}

Dispatcher::Counters Job::dispatch_counters() const {
  std::lock_guard lock(mutex_);
  return dispatcher_.counters();
}

Job::Pauses Job::pauses() const {
  std::lock_guard lock(mutex_);
  return pauses_;
}

std::vector<Outgoing> Job::CollectLocked() {
  const double now = Seconds();
  for (SequenceOutput& output : dispatcher_.TakeOutputs()) {
    const auto it = open_.find(output.id.number);
    CHECK(it != open_.end()) << output.id;
    SequenceResult& result = it->second;
    if (output.token.has_value()) {
      const double last = result.token_s.empty() ? now : result.token_s.back();
      if (output.recovered) {
        if (!result.token_s.empty()) pauses_.affected.push_back(now - last);
      } else if (last < last_loss_s_) {
        pauses_.others.push_back(now - last);
      }
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
    ++progress_.sequences_done;
    done_.push_back(std::move(result));
    open_.erase(it);
  }
  changed_.notify_all();
  return dispatcher_.TakeOutgoing();
}

void Job::OnTokens(int rank, uint64_t incarnation, const messages::TokenBatch& batch) {
  std::unique_lock lock(mutex_);
  progress_.kv_used[rank] = batch.kv_tokens_used();
  progress_.kv_lent[rank] = batch.kv_tokens_lent();
  dispatcher_.OnTokens(rank, incarnation, batch, clock_->Now());
  std::vector<Outgoing> outgoing = CollectLocked();
  lock.unlock();
  Send(std::move(outgoing));
}

void Job::OnMembers(const std::vector<Membership::Member>& members) {
  std::unique_lock lock(mutex_);
  for (int rank = 0; rank < ranks_; ++rank) {
    const bool lost = members[rank].state == Membership::State::kLost;
    if (lost && alive_[rank]) {
      progress_.kv_used[rank] = progress_.kv_lent[rank] = 0;
      last_loss_s_ = Seconds();
    }
    alive_[rank] = !lost;
  }
  dispatcher_.OnMembers(members, clock_->Now());
  std::vector<Outgoing> outgoing = CollectLocked();
  lock.unlock();
  Send(std::move(outgoing));
}

std::vector<int> Job::OnTick() {
  std::unique_lock lock(mutex_);
  dispatcher_.Tick(clock_->Now());
  std::vector<Outgoing> outgoing = CollectLocked();
  std::vector<int> broken = dispatcher_.TakeBroken();
  lock.unlock();
  Send(std::move(outgoing));
  return broken;
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
