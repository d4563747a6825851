#include "tests/sim/sim_engine.h"

#include <algorithm>

#include "base/check.h"

namespace lombard {

uint32_t SimEngine::Held(const State& state) {
  uint32_t blocks = static_cast<uint32_t>(state.local.size());
  for (const auto& [id, loan] : state.loans) blocks += loan.blocks;
  return blocks;
}

void SimEngine::Step(absl::Time now) {
  for (const RManager::Event& event : manager_->TakeEvents()) OnEvent(event, now);
  for (auto& [id, state] : requests_) {
    if (state.phase == Phase::kRunning) Run(state, now);
  }
  for (auto& [id, state] : requests_) {
    if (state.phase == Phase::kWaiting && state.not_before <= now) TryAdmit(state, now);
  }
  for (const RManager::Event& event : manager_->TakeEvents()) OnEvent(event, now);
  ReportLoad();
}

void SimEngine::OnEvent(const RManager::Event& event, absl::Time now) {
  if (const auto* borrowed = std::get_if<Borrowed>(&event)) {
    State& state = requests_.at(borrowed->request);
    if (const auto move = moving_.find(borrowed->ticket); move != moving_.end()) {
      // A move: what arrives at the creditor leaves the home's pool.
      uint32_t moved = 0;
      for (const Loan& loan : borrowed->loans) {
        CHECK_LT(loan.blocks, state.local.size());
        for (uint32_t i = 0; i < loan.blocks; ++i, ++moved) {
          pool_->Release(state.local.back());
          state.local.pop_back();
        }
        state.loans[loan.id] = loan;
      }
      manager_->FinishMove(move->second.first, moved);
      moving_.erase(move);
      ++moves_;
      return;
    }
    CHECK_EQ(state.ticket, borrowed->ticket);
    state.ticket = 0;
    for (const Loan& loan : borrowed->loans) state.loans[loan.id] = loan;
    state.blocked_since.reset();
    if (state.phase == Phase::kAdmitting) {
      state.phase = Phase::kRunning;
      state.admitted = now;
      CHECK_EQ(Held(state), state.request.blocks + state.grown);
    } else {
      ++state.grown;
    }
  } else if (const auto* refused = std::get_if<BorrowRefused>(&event)) {
    if (moving_.erase(refused->ticket) > 0) return;
    State& state = requests_.at(refused->request);
    CHECK_EQ(state.ticket, refused->ticket);
    state.ticket = 0;
    state.not_before = refused->retry_after;
    if (!state.blocked_since.has_value()) state.blocked_since = now;
    if (state.phase == Phase::kAdmitting) {
      pool_->ReleaseAll(state.local);
      state.local.clear();
      state.phase = Phase::kWaiting;
    }
  } else if (const auto* move = std::get_if<MoveWanted>(&event)) {
    const auto it = requests_.find(move->request);
    const bool fits = it != requests_.end() && it->second.phase == Phase::kRunning &&
                      it->second.ticket == 0 && move->blocks < it->second.local.size();
    if (!fits || random_() % 8 == 0) {
      manager_->RefuseMove(move->plan_id);
    } else {
      moving_[*manager_->StartMove(move->plan_id, now)] = {move->plan_id, move->request};
    }
  } else if (const auto* recall = std::get_if<RecallWanted>(&event)) {
    State& state = requests_.at(recall->loan.request);
    if (!state.loans.contains(recall->loan.id)) return;  // repaid since
    if (recall->may_decline) return manager_->DeclineRecall(recall->loan.id);
    ReleaseEverything(state, now);
    state.phase = Phase::kWaiting;
    state.not_before = now;
    ++state.preemptions;
    ++preemptions_;
  } else {
    CHECK(false) << "a creditor was lost in a run without losses";
  }
}

uint32_t SimEngine::HeldByYounger() const {
  if (!manager_->view().claim.has_value()) return 0;
  uint32_t blocks = 0;
  for (const auto& [id, state] : requests_) {
    if (manager_->view().claim->request < id) blocks += Held(state);
  }
  return blocks;
}

void SimEngine::TryAdmit(State& state, absl::Time now) {
  const RequestId id = state.request.id;
  const uint32_t need = state.request.blocks + state.grown;
  const auto block = [&] {
    if (!state.blocked_since.has_value()) state.blocked_since = now;
  };
  if (pool_->free_count() == 0) return block();  // the newest tokens lie at home
  const uint32_t local = std::min(need, pool_->free_count());
  if (local == need ? !manager_->MayAdmitLocally(id, need, HeldByYounger()) : !manager_->MayAdmit(id))
    return block();
  state.local = *pool_->Allocate(local);
  if (local == need) {
    state.phase = Phase::kRunning;
    state.admitted = now;
    state.blocked_since.reset();
    return;
  }
  state.phase = Phase::kAdmitting;
  state.ticket = manager_->Borrow(id, need - local, Purpose::kAdmission, now);
}

void SimEngine::Run(State& state, absl::Time now) {
  const SimRequest& request = state.request;
  const double progress = absl::FDivDuration(now - state.admitted, request.run_time);
  const auto grown = static_cast<uint32_t>(std::min(1.0, progress) * request.growth);
  if (state.grown < grown) return Grow(state, now);
  if (progress < 1 || state.ticket != 0) return;
  ReleaseEverything(state, now);
  state.phase = Phase::kDone;
}

void SimEngine::Grow(State& state, absl::Time now) {
  if (state.ticket != 0) return;
  if (absl::StatusOr<std::vector<BlockId>> block = pool_->Allocate(1); block.ok()) {
    state.local.push_back(block->front());
    ++state.grown;
    state.blocked_since.reset();
    return;
  }
  // Refused before and still stuck: only the oldest may wait while it holds memory.
  if (state.blocked_since.has_value() && !manager_->IsOldest(state.request.id)) return Preempt(now);
  if (state.not_before > now) return;
  state.ticket = manager_->Borrow(state.request.id, 1, Purpose::kGrowth, now);
}

// The youngest running request of this home gives everything back and starts over.
void SimEngine::Preempt(absl::Time now) {
  for (auto it = requests_.rbegin(); it != requests_.rend(); ++it) {
    State& state = it->second;
    if (state.phase != Phase::kRunning) continue;
    ReleaseEverything(state, now);
    state.phase = Phase::kWaiting;
    state.blocked_since = now;
    state.not_before = now;
    ++state.preemptions;
    ++preemptions_;
    return;
  }
}

void SimEngine::ReleaseEverything(State& state, absl::Time now) {
  pool_->ReleaseAll(state.local);
  state.local.clear();
  manager_->RepayAll(state.request.id, now);
  state.loans.clear();
  state.ticket = 0;
  state.blocked_since.reset();
  std::erase_if(moving_, [&](const auto& move) { return move.second.second == state.request.id; });
}

void SimEngine::ReportLoad() {
  Load load;
  for (const auto& [id, state] : requests_) {
    if (state.phase == Phase::kDone) continue;
    if (!load.oldest.has_value()) load.oldest = id;
    load.batch += state.phase == Phase::kRunning;
    if (state.phase == Phase::kWaiting) {
      ++load.waiting;
      load.waiting_tokens += 32u * state.request.blocks;
    }
    load.own_tokens += 32 * state.local.size();
    if (state.local.size() > 2) {
      const auto blocks = static_cast<uint32_t>(state.local.size());
      load.long_requests.push_back({id, blocks, state.phase == Phase::kRunning ? blocks - 1 : 0});
    }
    if (state.blocked_since.has_value() && !load.oldest_blocked.has_value()) {
      const bool running = state.phase == Phase::kRunning;
      load.oldest_blocked = Load::Blocked{id, running ? 1 : state.request.blocks + state.grown,
                                          *state.blocked_since, Held(state)};
    }
  }
  manager_->SetLoad(load);
}

bool SimEngine::AllDone() const {
  return std::all_of(requests_.begin(), requests_.end(),
                     [](const auto& entry) { return entry.second.phase == Phase::kDone; });
}

}  // namespace lombard
