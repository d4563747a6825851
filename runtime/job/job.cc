#include "runtime/job/job.h"

#include <algorithm>

#include "base/check.h"
#include "base/status.h"
#include "runtime/worker/convert.h"

namespace lombard {

namespace {

// Of two processes of a rank, the second after the first: counts add up, the largest is the larger one.
messages::WorkerReport SumOf(const messages::WorkerReport& first, const messages::WorkerReport& second) {
  messages::WorkerReport sum = second;
  const google::protobuf::Reflection& reflection = *sum.GetReflection();
  const google::protobuf::Descriptor& fields = *sum.GetDescriptor();
  for (int i = 0; i < fields.field_count(); ++i) {
    const google::protobuf::FieldDescriptor* field = fields.field(i);
    if (field->is_repeated()) {
      for (int j = 0; j < std::min(reflection.FieldSize(first, field), reflection.FieldSize(second, field));
           ++j) {
        reflection.SetRepeatedUInt64(
            &sum, field, j,
            reflection.GetRepeatedUInt64(first, field, j) + reflection.GetRepeatedUInt64(second, field, j));
      }
    } else if (field->cpp_type() == google::protobuf::FieldDescriptor::CPPTYPE_DOUBLE) {
      reflection.SetDouble(&sum, field,
                           reflection.GetDouble(first, field) + reflection.GetDouble(second, field));
    } else {
      reflection.SetUInt64(&sum, field,
                           reflection.GetUInt64(first, field) + reflection.GetUInt64(second, field));
    }
  }
  sum.set_kv_capacity(second.kv_capacity());
  sum.set_kv_used_max(std::max(first.kv_used_max(), second.kv_used_max()));
  sum.set_kv_lent_max(std::max(first.kv_lent_max(), second.kv_lent_max()));
  sum.set_kv_borrowed_max(std::max(first.kv_borrowed_max(), second.kv_borrowed_max()));
  return sum;
}

}  // namespace

Job::Job(const std::vector<Router::Instance>& instances, const Clock* clock,
         const Dispatcher::Options& options)
    : clock_(clock),
      start_(clock->Now()),
      ranks_(static_cast<int>(instances.size())),
      size_of_(options.size_of),
      dispatcher_(instances, options),
      states_(instances.size()) {
  progress_.kv_used.resize(ranks_), progress_.kv_lent.resize(ranks_);
  for (size_t i = 0; i < instances.size(); ++i) {
    capacity_tokens_.push_back(instances[i].capacity);
    if (instances[i].capacity > 0) states_[i].state = Membership::State::kExpected;
  }
}

uint64_t Job::capacity_tokens(int rank) const {
  std::lock_guard lock(mutex_);
  return capacity_tokens_[rank];
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
                    [this] { return !failure_.ok() || !done_.empty() || open_.empty() || interrupted_; });
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
  {
    std::lock_guard lock(mutex_);
    ending_ = true;
  }
  for (int rank = 0; rank < ranks_; ++rank) worker_->SendControl(rank, drain).IgnoreError();
  std::vector<messages::WorkerReport> reports(static_cast<size_t>(ranks_));
  {
    std::unique_lock lock(mutex_);
    const auto missing = [this]() -> std::optional<int> {
      for (int rank = 0; rank < ranks_; ++rank) {
        const Membership::State state = states_[rank].state;
        const bool here = state == Membership::State::kExpected || state == Membership::State::kAlive ||
                          state == Membership::State::kDraining;
        if (here && !states_[rank].reported) return rank;
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
      if (states_[rank].report.has_value()) reports[rank] = *states_[rank].report;
    }
  }
  for (int rank = ranks_ - 1; rank >= 0; --rank) worker_->SendControl(rank, leave).IgnoreError();
  return reports;
}

std::vector<int> Job::lost_ranks() const {
  std::lock_guard lock(mutex_);
  std::vector<int> lost;
  for (int rank = 0; rank < ranks_; ++rank) {
    if (states_[rank].state == Membership::State::kLost) lost.push_back(rank);
  }
  return lost;
}

std::vector<int> Job::ever_lost_ranks() const {
  std::lock_guard lock(mutex_);
  std::vector<int> lost;
  for (int rank = 0; rank < ranks_; ++rank) {
    if (states_[rank].ever_lost) lost.push_back(rank);
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
  uint64_t tokens = 0;
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
      ++tokens;
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
  if (tokens > 0) CountLocked(tokens, now);
  changed_.notify_all();
  return dispatcher_.TakeOutgoing();
}

int Job::WorkersLocked() const {
  return static_cast<int>(std::count_if(states_.begin(), states_.end(), [](const Rank& rank) {
    return rank.state == Membership::State::kAlive || rank.state == Membership::State::kDraining;
  }));
}

void Job::CountLocked(uint64_t tokens, double now) {
  const double start = timeline_.empty() ? now : timeline_.front().start_s;
  while (static_cast<size_t>((now - start) / interval_s_) >= kTimelineMax) {  // two become one
    for (size_t i = 0; i < timeline_.size(); i += 2) {
      TimelineEntry& entry = timeline_[i / 2] = timeline_[i];
      entry.seconds = 2 * interval_s_;
      if (i + 1 == timeline_.size()) continue;
      entry.tokens += timeline_[i + 1].tokens;
      entry.workers = timeline_[i + 1].workers;
      entry.kv_used = timeline_[i + 1].kv_used;
      entry.kv_lent = timeline_[i + 1].kv_lent;
    }
    timeline_.resize((timeline_.size() + 1) / 2);
    interval_s_ *= 2;
  }
  const size_t index = static_cast<size_t>((now - start) / interval_s_);
  const int workers = WorkersLocked();
  while (timeline_.size() <= index) {
    timeline_.push_back({.start_s = start + static_cast<double>(timeline_.size()) * interval_s_,
                         .seconds = interval_s_,
                         .tokens = 0,
                         .workers = workers,
                         .kv_used = progress_.kv_used,
                         .kv_lent = progress_.kv_lent});
  }
  TimelineEntry& entry = timeline_[index];
  entry.tokens += tokens;
  entry.workers = workers;
  entry.kv_used = progress_.kv_used;
  entry.kv_lent = progress_.kv_lent;
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

void Job::OnHandBack(int rank, uint64_t incarnation, const messages::HandBack& back) {
  std::unique_lock lock(mutex_);
  dispatcher_.OnHandBack(rank, incarnation, back, clock_->Now());
  std::vector<Outgoing> outgoing = CollectLocked();
  lock.unlock();
  Send(std::move(outgoing));
}

void Job::OnMembers(const std::vector<Membership::Member>& members) {
  using State = Membership::State;
  std::unique_lock lock(mutex_);
  std::vector<int> late;  // came while the job ends
  for (int rank = 0; rank < ranks_; ++rank) {
    const Membership::Member& member = members[rank];
    Rank& known = states_[rank];
    if (member.state == State::kLost && known.state != State::kLost) {
      last_loss_s_ = Seconds();
      known.ever_lost = true;
    }
    if (!member.belongs()) progress_.kv_used[rank] = progress_.kv_lent[rank] = 0;
    const bool comes = member.granted && member.state == State::kAlive && known.process != member.process;
    if (comes) {
      ++joined_;
      known.reported = false;
      capacity_tokens_[rank] = size_of_ ? size_of_(member.kv_blocks).capacity : capacity_tokens_[rank];
      if (ending_) late.push_back(rank);
    }
    left_ += member.state == State::kLeft && known.state != State::kLeft;
    known.state = member.state;
    if (member.belongs()) known.process = member.process;
  }
  if (!timeline_.empty()) CountLocked(0, Seconds());
  dispatcher_.OnMembers(members, clock_->Now());
  std::vector<Outgoing> outgoing = CollectLocked();
  lock.unlock();
  Send(std::move(outgoing));
  messages::ControlMessage drain;
  drain.mutable_drain();
  for (int rank : late) worker_->SendControl(rank, drain).IgnoreError();
}

void Job::Interrupt() {
  std::lock_guard lock(mutex_);
  interrupted_ = true;
  changed_.notify_all();
}

void Job::CancelAll() {
  std::unique_lock lock(mutex_);
  std::vector<Outgoing> outgoing = dispatcher_.CancelAll();
  open_.clear();
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
  Rank& known = states_[rank];
  known.reported = true;
  known.report = known.report.has_value() ? SumOf(*known.report, report) : report;
  changed_.notify_all();
}

void Job::OnJobFailed(const absl::Status& why) {
  std::lock_guard lock(mutex_);
  if (failure_.ok()) failure_ = why;
  changed_.notify_all();
}

}  // namespace lombard
