#include "fabric/exchange_lane.h"

#include "base/check.h"

namespace lombard {

std::optional<ExchangeId> ExchangeLane::Ask(const std::vector<int>& others, absl::Time answer_by) {
  if (state_ != State::kFree) return std::nullopt;
  CHECK(!others.empty());
  state_ = State::kAsking;
  exchange_ = {rank_, ++serial_};
  awaited_ = {others.begin(), others.end()};
  CHECK(!awaited_.contains(rank_));
  accepted_.clear();
  answer_by_ = answer_by;
  return exchange_;
}

void ExchangeLane::OnAnswer(ExchangeId id, int from, bool yes) {
  if (state_ != State::kAsking || id != exchange_ || awaited_.erase(from) == 0) return;
  if (yes) accepted_.insert(from);
  EndAskingIfAllAnswered();
}

void ExchangeLane::OnPeerDown(int peer) {
  if (state_ != State::kAsking) return;
  awaited_.erase(peer);
  accepted_.erase(peer);
  EndAskingIfAllAnswered();
}

std::vector<int> ExchangeLane::OnTime(absl::Time now) {
  if (state_ != State::kAsking || now < answer_by_) return {};
  std::vector<int> late(awaited_.begin(), awaited_.end());
  awaited_.clear();
  EndAskingIfAllAnswered();
  return late;
}

bool ExchangeLane::OnAsked(ExchangeId id) {
  if (state_ != State::kFree) return false;
  state_ = State::kServing;
  exchange_ = id;
  return true;
}

void ExchangeLane::Done() {
  CHECK(state_ == State::kRunning || state_ == State::kServing);
  state_ = State::kFree;
}

void ExchangeLane::EndAskingIfAllAnswered() {
  if (awaited_.empty()) state_ = accepted_.empty() ? State::kFree : State::kRunning;
}

}  // namespace lombard
