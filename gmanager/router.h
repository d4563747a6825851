// Which instance a request goes to: of those alive, the one where the work given out, in tokens, is smallest
// for the memory it has. Pure; ties go to the lowest id. A request that only some instances can hold goes to
// one of these.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/ids.h"

namespace lombard {

class Router {
 public:
  struct Instance {
    uint64_t capacity = 0;  // tokens of its own pool
    uint64_t lendable = 0;  // tokens of it that others may borrow at most
  };
  // Everyone is alive at first.
  explicit Router(std::vector<Instance> instances)
      : instances_(std::move(instances)), given_(instances_.size(), 0), alive_(instances_.size(), true) {}

  void SetAlive(InstanceId instance, bool alive) { alive_[Value(instance)] = alive; }
  bool IsAlive(InstanceId instance) const { return alive_[Value(instance)]; }

  // The instance for a request of at most `tokens`; it is charged until Done. Where none could ever hold it,
  // the one that comes closest; nullopt while those that could are not alive. `wanted` is taken as it is, if
  // it is alive.
  std::optional<InstanceId> Pick(uint64_t tokens, std::optional<InstanceId> wanted = {}) {
    std::optional<InstanceId> best;
    for (size_t i = 0; i < instances_.size(); ++i) {
      const auto id = InstanceId(i);
      if (alive_[i] && (wanted == id || !best.has_value() || (best != wanted && Better(id, *best, tokens))))
        best = id;
    }
    if (!best.has_value() || (best != wanted && Reachable(*best) < tokens && tokens <= ReachableMax()))
      return std::nullopt;
    given_[Value(*best)] += tokens;
    return best;
  }
  void Done(InstanceId instance, uint64_t tokens) { given_[Value(instance)] -= tokens; }

  // Tokens that one request at home there can hold now: its own pool and what those alive may lend.
  uint64_t Reachable(InstanceId home) const { return Reach(home, /*everyone=*/false); }
  // The most at any home, with everyone alive.
  uint64_t ReachableMax() const {
    uint64_t most = 0;
    for (size_t i = 0; i < instances_.size(); ++i) most = std::max(most, Reach(InstanceId(i), true));
    return most;
  }

 private:
  uint64_t Reach(InstanceId home, bool everyone) const {
    uint64_t tokens = 0;
    for (size_t i = 0; i < instances_.size(); ++i) {
      if (InstanceId(i) == home) {
        tokens += instances_[i].capacity;
      } else if (everyone || alive_[i]) {
        tokens += instances_[i].lendable;
      }
    }
    return tokens;
  }
  bool Better(InstanceId a, InstanceId b, uint64_t tokens) const {
    const uint64_t reach_a = Reachable(a), reach_b = Reachable(b);
    if ((reach_a >= tokens) != (reach_b >= tokens)) return reach_a >= tokens;
    return reach_a >= tokens ? Load(a, tokens) < Load(b, tokens) : reach_a > reach_b;
  }
  double Load(InstanceId i, uint64_t tokens) const {
    return static_cast<double>(given_[Value(i)] + tokens) /
           static_cast<double>(instances_[Value(i)].capacity + 1);
  }

  std::vector<Instance> instances_;
  std::vector<uint64_t> given_;
  std::vector<bool> alive_;
};

}  // namespace lombard
