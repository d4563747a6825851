#include "tests/sim/sim_cluster.h"

#include <algorithm>
#include <map>
#include <set>

#include "base/check.h"
#include "base/status.h"

namespace lombard {
namespace {

GManagerOptions ManagerOptions(const SimOptions& options) {
  return {
      .instances = static_cast<int>(options.pools.size()),
      .plan = {.policy = options.policy, .block_tokens = 32, .request_blocks_min = 3},
      .cost = {.layers = 4, .profile = {.weights_seconds = 4e-4, .row_seconds = 1e-6, .token_seconds = 1e-6}},
      .dead_after = absl::Seconds(60)};  // nobody dies here
}

}  // namespace

SimCluster::SimCluster(const SimOptions& options)
    : options_(options),
      random_(options.seed),
      last_arrival_(options.pools.size() * options.pools.size(), absl::InfinitePast()),
      gmanager_(ManagerOptions(options)) {
  const int n = static_cast<int>(options.pools.size());
  for (int i = 0; i < n; ++i) {
    auto worker = std::make_unique<Worker>();
    worker->pool = std::make_unique<KvPool>(options.pools[i]);
    worker->manager = std::make_unique<RManager>(RManagerOptions{.self = InstanceId(i),
                                                                 .instances = n,
                                                                 .reserve = options.reserve,
                                                                 .lent_max = options.lent_max,
                                                                 .lease = absl::Seconds(5),
                                                                 .reply_deadline = absl::Seconds(2),
                                                                 .retry = absl::Milliseconds(300)},
                                                 worker->pool.get());
    worker->engine = std::make_unique<SimEngine>(worker->manager.get(), worker->pool.get(), random_());
    workers_.push_back(std::move(worker));
    Push(now_ + Draw(absl::ZeroDuration(), options.step_max), {.kind = Kind::kStep, .to = i});
  }
  Push(now_, {.kind = Kind::kGManager});
}

absl::Duration SimCluster::Draw(absl::Duration low, absl::Duration high) {
  const int64_t range = absl::ToInt64Microseconds(high - low);
  return low + absl::Microseconds(range > 0 ? static_cast<int64_t>(random_() % (range + 1)) : 0);
}

void SimCluster::Push(absl::Time time, Event event) {
  event.time = time;
  event.order = order_++;
  queue_.push(std::move(event));
}

void SimCluster::Submit(const SimRequest& request) {
  ++outstanding_arrivals_;
  Push(request.arrival, {.kind = Kind::kArrival, .request = request});
}

void SimCluster::Send(int from, std::vector<Outgoing> outgoing) {
  for (Outgoing& out : outgoing) {
    if (Chance(options_.loss)) continue;
    const auto message = std::make_shared<const messages::ControlMessage>(std::move(out.message));
    for (int copies = Chance(options_.duplicate) ? 2 : 1; copies > 0; --copies) {
      absl::Time arrival = now_ + Draw(absl::Microseconds(50), options_.delay_max);
      if (Chance(0.01)) arrival += 10 * options_.delay_max;  // somebody was slow
      absl::Time& last = last_arrival_[from * workers_.size() + out.to];
      if (!options_.overtake) arrival = last = std::max(arrival, last);
      Push(arrival, {.kind = Kind::kDeliver, .from = from, .to = out.to, .message = message});
    }
  }
}

void SimCluster::Process(const Event& event) {
  switch (event.kind) {
    case Kind::kArrival:
      workers_[Value(event.request.home)]->engine->Submit(event.request);
      --outstanding_arrivals_;
      break;
    case Kind::kDeliver:
      if (ForGlobalManager(*event.message)) {
        gmanager_.Handle(event.from, *event.message, now_);
        Send(0, gmanager_.TakeOutgoing());
      } else {
        workers_[event.to]->inbox.emplace_back(event.from, *event.message);
      }
      break;
    case Kind::kGManager:
      gmanager_.Tick(now_);
      Send(0, gmanager_.TakeOutgoing());
      Push(now_ + absl::Milliseconds(10), {.kind = Kind::kGManager});
      break;
    case Kind::kStep: {
      Worker& worker = *workers_[event.to];
      for (const auto& [from, message] : std::exchange(worker.inbox, {}))
        worker.manager->Handle(from, message, now_);
      worker.engine->Step(now_);
      worker.manager->Tick(now_);
      worker.engine->Step(now_);
      Send(event.to, worker.manager->TakeOutgoing());
      std::erase_if(worker.snapshots, [&](const auto& held) { return held.first <= now_; });
      if (Chance(options_.hold_snapshots)) {
        worker.snapshots.emplace_back(now_ + Draw(absl::ZeroDuration(), absl::Milliseconds(500)),
                                      worker.manager->hosted());
      }
      Push(now_ + Draw(absl::Milliseconds(1), options_.step_max), {.kind = Kind::kStep, .to = event.to});
      verdict_.Update(CheckWorker(event.to));
      break;
    }
  }
  verdict_.Update(Check());
  ++events_;
}

void SimCluster::Run(absl::Duration duration) {
  const absl::Time end = now_ + duration;
  while (verdict_.ok() && queue_.top().time <= end) {
    const Event event = queue_.top();
    queue_.pop();
    now_ = event.time;
    Process(event);
  }
  now_ = std::max(now_, end);
}

bool SimCluster::RunUntilDone(absl::Duration patience) {
  const absl::Time end = now_ + patience;
  const auto done = [&] {
    return outstanding_arrivals_ == 0 &&
           std::all_of(workers_.begin(), workers_.end(),
                       [](const auto& worker) { return worker->engine->AllDone(); });
  };
  while (verdict_.ok() && !done() && now_ < end) Run(absl::Milliseconds(100));
  return done();
}

// The ledger as an outsider sees it: who uses which block of which pool.
absl::Status SimCluster::Check() const {
  for (size_t debtor = 0; debtor < workers_.size(); ++debtor) {
    const Worker& worker = *workers_[debtor];
    uint64_t borrowed = 0;
    for (const auto& [id, state] : worker.engine->requests()) {
      const bool holds = !state.local.empty() || !state.loans.empty();
      const bool may_hold =
          state.phase == SimEngine::Phase::kRunning || state.phase == SimEngine::Phase::kAdmitting;
      if (holds && !may_hold)
        return absl::InternalError(absl::StrCat(ToString(id), " holds memory while it waits"));
      if (state.phase == SimEngine::Phase::kAdmitting && !state.loans.empty()) {
        return absl::InternalError(absl::StrCat(ToString(id), " has loans before it is admitted"));
      }
      for (const auto& [loan_id, loan] : state.loans) {
        borrowed += loan.blocks;
        const RManager& creditor = *workers_[Value(loan.creditor)]->manager;
        const std::shared_ptr<const LoanSlots> slots = creditor.hosted()->Find(loan_id, loan.epoch);
        if (slots == nullptr) {
          return absl::InternalError(absl::StrCat(ToString(id), " uses loan ", Value(loan_id),
                                                  " of instance ", Value(loan.creditor),
                                                  ", which does not know it"));
        }
        if (slots->blocks.size() != loan.blocks || slots->loan.debtor != InstanceId(debtor) ||
            slots->loan.request != id) {
          return absl::InternalError(
              absl::StrCat("loan ", Value(loan_id), " means different things to its two sides"));
        }
      }
    }
    if (borrowed != worker.manager->counters().borrowed) {
      return absl::InternalError(absl::StrCat("instance ", debtor, ": requests use ", borrowed,
                                              " borrowed blocks, ledger ",
                                              worker.manager->counters().borrowed));
    }
  }
  return absl::OkStatus();
}

absl::Status SimCluster::CheckWorker(int i) const {
  const Worker& worker = *workers_[i];
  RETURN_IF_ERROR(worker.manager->CheckInvariants());
  std::set<BlockId> used;
  const auto take = [&](BlockId block, absl::string_view user) {
    return used.insert(block).second
               ? absl::OkStatus()
               : absl::InternalError(
                     absl::StrCat("block ", Value(block), " of instance ", i, " has a second user: ", user));
  };
  for (const auto& [id, state] : worker.engine->requests()) {
    for (BlockId block : state.local) RETURN_IF_ERROR(take(block, ToString(id)));
  }
  const uint64_t local = used.size();
  for (const auto& [id, slots] : worker.manager->hosted()->loans) {
    for (BlockId block : slots->blocks) RETURN_IF_ERROR(take(block, absl::StrCat("loan ", Value(id))));
  }
  // Loans that a service thread still reads must not have been given to anyone else.
  std::set<BlockId> held;
  for (const auto& [until, snapshot] : worker.snapshots) {
    for (const auto& [id, slots] : snapshot->loans) {
      if (worker.manager->hosted()->loans.contains(id)) continue;
      for (BlockId block : slots->blocks) {
        if (held.insert(block).second)
          RETURN_IF_ERROR(take(block, absl::StrCat("a reader of loan ", Value(id))));
      }
    }
  }
  const uint32_t lent = worker.manager->counters().lent;
  if (local + lent != worker.pool->used_count()) {
    return absl::InternalError(absl::StrCat("instance ", i, ": ", local, " blocks used at home and ", lent,
                                            " lent, but ", worker.pool->used_count(),
                                            " taken from the pool"));
  }
  return absl::OkStatus();
}

absl::Status SimCluster::CheckSettled() const {
  for (size_t i = 0; i < workers_.size(); ++i) {
    const RManager::Counters counters = workers_[i]->manager->counters();
    if (workers_[i]->pool->used_count() != 0 || counters.lent != 0 || counters.borrowed != 0) {
      return absl::InternalError(absl::StrCat("instance ", i, " still has ", workers_[i]->pool->used_count(),
                                              " blocks in use, ", counters.lent, " lent, ", counters.borrowed,
                                              " borrowed"));
    }
    if (counters.granted != counters.repaid || counters.lost != 0 || counters.malformed != 0) {
      return absl::InternalError(absl::StrCat("instance ", i, ": granted ", counters.granted, ", repaid ",
                                              counters.repaid, ", lost ", counters.lost, ", malformed ",
                                              counters.malformed));
    }
  }
  return absl::OkStatus();
}

std::string SimCluster::Describe() const {
  std::string text =
      absl::StrCat("at ", absl::FormatDuration(now_ - absl::UnixEpoch()), ", ", events_, " events\n");
  if (gmanager_.claim().has_value()) {
    absl::StrAppend(&text, "claim: ", ToString(gmanager_.claim()->request), " lacks ",
                    gmanager_.claim()->blocks, "\n");
  }
  for (size_t i = 0; i < workers_.size(); ++i) {
    const RManager::Counters c = workers_[i]->manager->counters();
    absl::StrAppend(&text, "instance ", i, ": free ", workers_[i]->pool->free_count(), " of ",
                    workers_[i]->pool->total_count(), ", lent ", c.lent, ", borrowed ", c.borrowed,
                    ", view lends ");
    for (const auto& instance : workers_[i]->manager->view().instances)
      absl::StrAppend(&text, instance.lendable, " ");
    absl::StrAppend(&text, "\n");
    for (const auto& [id, state] : workers_[i]->engine->requests()) {
      if (state.phase == SimEngine::Phase::kDone) continue;
      absl::StrAppend(&text, "  ", ToString(id), " phase ", static_cast<int>(state.phase), " needs ",
                      state.request.blocks, "+", state.request.growth, " local ", state.local.size(),
                      " loans ", state.loans.size(), state.blocked_since.has_value() ? " blocked" : "",
                      " preempted ", state.preemptions, "\n");
    }
  }
  return text;
}

}  // namespace lombard
