#include "gmanager/planner.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "base/check.h"

namespace lombard {
namespace {

// The planner's working copy of the cluster: what it would look like after the moves chosen so far.
class Model {
 public:
  Model(const ClusterState& state, const CostModel& cost, const PlanOptions& options)
      : cost_(cost), options_(options) {
    for (const InstanceState& instance : state.instances) instances_[instance.id] = instance;
    for (const Placement& p : state.placements) {
      if (p.home == p.host) {
        movable_[{p.home, p.request}] = {p.blocks, std::min(p.blocks, p.movable), p.shared, p.readers};
      } else if (p.blocks > 0) {
        remote_[p.home][p.host] += double{1} * p.blocks * options.block_tokens;
        ++rows_[p.home][p.host];
        hosts_.insert({p.request, p.host});
      }
    }
  }

  struct Local {
    uint32_t blocks = 0, movable = 0, shared = 0, readers = 0;
  };

  std::map<InstanceId, InstanceState>& instances() { return instances_; }

  // The request with most movable blocks at `home`; nullopt when none may move. Longest first frees most per
  // move.
  std::optional<RequestId> LongestRequest(InstanceId home) const {
    std::optional<RequestId> best;
    uint32_t most = 0;
    for (const auto& [key, local] : movable_) {
      if (key.first != home || MovableBlocks(home, key.second) == 0 || local.blocks <= most) continue;
      most = local.blocks;
      best = key.second;
    }
    return best;
  }

  // The longest prefix with several readers at `home`, as a move: whoever attends to it does so once for all
  // of them, so it is the cheapest to lend.
  std::optional<Move> SharedPrefix(InstanceId home) const {
    std::optional<Move> best;
    for (const auto& [key, local] : movable_) {
      if (key.first != home || local.readers < 2 || local.shared <= (best.has_value() ? best->blocks : 0))
        continue;
      best = {.request = key.second, .from = home, .blocks = local.shared, .readers = local.readers};
    }
    return best;
  }

  uint32_t MovableBlocks(InstanceId home, RequestId request) const {
    const auto it = movable_.find({home, request});
    if (it == movable_.end() || it->second.blocks < options_.request_blocks_min) return 0;
    const Local& local = it->second;
    const uint32_t leaving = local.blocks > options_.keep_local ? local.blocks - options_.keep_local : 0;
    return std::min(local.movable, leaving);
  }

  double Throughput(InstanceId id) const {
    const InstanceState& i = instances_.at(id);
    return cost_.TokensPerSecond(Value(id), i.batch, i.own_tokens + i.hosted_tokens, Remote(id));
  }

  // Sum of both sides' throughput after the move. The home attended to the blocks of each reader, the creditor
  // does so once.
  double After(const Move& move) const {
    const auto& [request, from, to, blocks, readers, gain] = move;
    const InstanceState& i = instances_.at(from);
    const InstanceState& j = instances_.at(to);
    const Joined joined = Joining(i, blocks);
    const double moved = double{1} * blocks * options_.block_tokens;
    std::vector<CostModel::RemotePart> remote = Remote(from);
    auto part =
        std::find_if(remote.begin(), remote.end(), [&](const auto& p) { return p.creditor == Value(to); });
    if (blocks > 0) {
      if (part == remote.end()) part = remote.insert(remote.end(), {Value(to), 0, 0});
      part->tokens += moved;
      part->rows += readers - (hosts_.contains({request, to}) ? 1 : 0);
    }
    return cost_.TokensPerSecond(Value(from), i.batch + joined.requests,
                                 i.own_tokens + i.hosted_tokens - readers * moved + joined.tokens, remote) +
           cost_.TokensPerSecond(Value(to), j.batch, j.own_tokens + j.hosted_tokens + moved, Remote(to));
  }

  void Apply(const Move& move) {
    const auto& [request, from, to, blocks, readers, gain] = move;
    InstanceState& i = instances_.at(from);
    InstanceState& j = instances_.at(to);
    const Joined joined = Joining(i, blocks);
    const double moved = double{1} * blocks * options_.block_tokens;
    i.waiting_tokens -= joined.tokens;
    i.waiting -= joined.requests;
    i.batch += joined.requests;
    i.own_tokens += joined.tokens - readers * moved;
    j.hosted_tokens += moved;
    j.blocks_free -= std::min(j.blocks_free, blocks);
    j.blocks_lendable -= blocks;
    remote_[from][to] += moved;
    rows_[from][to] += readers - (hosts_.insert({request, to}).second ? 0 : 1);
    Local& local = movable_.at({from, request});
    local.blocks -= blocks;
    (readers > 1 ? local.shared : local.movable) -= blocks;
  }

 private:
  struct Joined {
    uint32_t requests;
    double tokens;
  };

  // Waiting requests of mean length that fit into the freed blocks.
  Joined Joining(const InstanceState& i, uint32_t blocks) const {
    if (i.waiting == 0) return {0, 0};
    const double mean = std::max(1.0, i.waiting_tokens / i.waiting);
    const double fit = std::floor(double{1} * blocks * options_.block_tokens / mean);
    const auto requests = static_cast<uint32_t>(std::min<double>(i.waiting, fit));
    return {requests, requests * mean};
  }

  std::vector<CostModel::RemotePart> Remote(InstanceId home) const {
    std::vector<CostModel::RemotePart> parts;
    const auto it = remote_.find(home);
    if (it == remote_.end()) return parts;
    for (const auto& [host, tokens] : it->second) {
      parts.push_back({Value(host), tokens, static_cast<double>(rows_.at(home).at(host))});
    }
    return parts;
  }

  const CostModel& cost_;
  const PlanOptions& options_;
  std::map<InstanceId, InstanceState> instances_;
  std::map<std::pair<InstanceId, RequestId>, Local> movable_;  // (home, request)
  std::map<InstanceId, std::map<InstanceId, double>> remote_;  // home -> host -> tokens
  std::map<InstanceId, std::map<InstanceId, uint32_t>> rows_;  // home -> host -> requests
  std::set<std::pair<RequestId, InstanceId>> hosts_;           // who holds parts of whom
};

double MemoryUse(const InstanceState& i) {
  return i.blocks_total == 0 ? 1 : 1 - static_cast<double>(i.blocks_free) / i.blocks_total;
}

std::vector<Move> PlanGreedy(const ClusterState& state, const CostModel& cost, const PlanOptions& options) {
  Model model(state, cost, options);
  std::vector<InstanceState> debtors;
  for (const auto& [id, i] : model.instances()) {
    const double theta = options.theta_batch > 0 ? options.theta_batch : cost.KneeBatch(Value(id));
    if (i.batch > 0 && i.batch < theta) debtors.push_back(i);
  }
  std::stable_sort(debtors.begin(), debtors.end(),
                   [](const InstanceState& a, const InstanceState& b) { return a.batch < b.batch; });

  std::vector<Move> moves;
  std::set<InstanceId> has_lent, has_borrowed, done;
  for (bool progress = true; progress && moves.size() < options.moves_max;) {
    progress = false;
    for (const InstanceState& debtor : debtors) {
      if (moves.size() >= options.moves_max) break;
      const InstanceId from = debtor.id;
      if (done.contains(from) || has_lent.contains(from)) continue;
      done.insert(from);  // until a move is found
      const InstanceState* creditor = nullptr;
      for (const auto& [id, j] : model.instances()) {
        if (id == from || has_borrowed.contains(id) || MemoryUse(j) >= options.theta_mem ||
            j.blocks_lendable == 0)
          continue;
        if (creditor == nullptr || j.blocks_lendable > creditor->blocks_lendable) creditor = &j;
      }
      if (creditor == nullptr) continue;
      const uint32_t room = std::min(creditor->blocks_lendable, options.move_blocks_max);
      Move best{.from = from, .to = creditor->id, .gain = 1};
      const double now = model.After(best);
      if (std::optional<Move> shared = model.SharedPrefix(from);
          shared.has_value() && shared->blocks <= room) {
        shared->to = creditor->id;
        shared->gain = model.After(*shared) / now;
        if (shared->gain >= options.gain_min) best = *shared;
      }
      if (const auto request = model.LongestRequest(from); best.blocks == 0 && request.has_value()) {
        best.request = *request;
        const uint32_t most = std::min(room, model.MovableBlocks(from, *request));
        for (Move move = best; move.blocks <= most; ++move.blocks) {
          move.gain = model.After(move) / now;
          if (move.gain > best.gain) best = move;
        }
      }
      if (best.blocks == 0 || best.gain < options.gain_min) continue;
      moves.push_back(best);
      has_borrowed.insert(from);
      has_lent.insert(best.to);
      model.Apply(best);
      done.erase(from);
      progress = true;
    }
  }
  return moves;
}

}  // namespace

std::vector<Move> Plan(const ClusterState& state, const CostModel& cost, const PlanOptions& options) {
  switch (options.policy) {
    case PlanPolicy::kNone:
      return {};
    case PlanPolicy::kGreedy:
      return PlanGreedy(state, cost, options);
  }
  return {};
}

double PredictPair(const ClusterState& state, const CostModel& cost, const PlanOptions& options,
                   const Move& move) {
  const Model model(state, cost, options);
  return model.After(move);
}

}  // namespace lombard
