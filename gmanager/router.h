// Which instance a request goes to: of those alive, the one where the work given out, in tokens, is smallest
// for the memory it has. A token that is cached there counts in its favour twice: it need not be computed,
// and not be held a second time. So requests with a common beginning stay together until another instance has
// so much less to do that a second copy pays (as with renting and buying: never more than twice the best
// choice). Pure; ties go to the lowest id. A request that only some instances can hold goes to one of these.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/types/span.h"
#include "base/ids.h"

namespace lombard {

class Router {
 public:
  struct Instance {
    uint64_t capacity = 0;  // tokens of its own pool
    uint64_t lendable = 0;  // tokens of it that others may borrow at most
  };
  // Everyone is alive at first. Places where nobody is have no size.
  explicit Router(std::vector<Instance> instances)
      : instances_(std::move(instances)), given_(instances_.size(), 0), alive_(instances_.size(), true) {}

  void SetSize(InstanceId instance, const Instance& size) { instances_[Value(instance)] = size; }
  void SetAlive(InstanceId instance, bool alive) { alive_[Value(instance)] = alive; }
  bool IsAlive(InstanceId instance) const { return alive_[Value(instance)]; }

  struct Choice {
    InstanceId home{};
    uint64_t charge = 0;  // tokens that are new there, for Done
    bool operator==(const Choice&) const = default;
  };
  // The instance for a request of at most `tokens`; it is charged until Done. Where none could ever hold it,
  // the one that comes closest; nullopt while those that could are not alive. `wanted` is taken as it is, if
  // it is alive. `cached`: tokens of it that each instance has already; empty: none.
  std::optional<Choice> Pick(uint64_t tokens, std::optional<InstanceId> wanted = {},
                             absl::Span<const uint64_t> cached = {}) {
    const auto cached_at = [&](InstanceId i) {
      return cached.empty() ? 0 : std::min(tokens, cached[Value(i)]);
    };
    std::optional<InstanceId> best;
    for (size_t i = 0; i < instances_.size(); ++i) {
      const auto id = InstanceId(i);
      if (alive_[i] && (wanted == id || !best.has_value() ||
                        (best != wanted && Better({id, cached_at(id)}, {*best, cached_at(*best)}, tokens))))
        best = id;
    }
    if (!best.has_value() || (best != wanted && Reachable(*best) < tokens && tokens <= ReachableMax()))
      return std::nullopt;
    const Choice choice{*best, tokens - cached_at(*best)};
    given_[Value(*best)] += choice.charge;
    return choice;
  }
  void Done(const Choice& choice) { given_[Value(choice.home)] -= choice.charge; }

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
  struct Candidate {
    InstanceId id;
    uint64_t cached;
  };
  bool Better(const Candidate& a, const Candidate& b, uint64_t tokens) const {
    const uint64_t reach_a = Reachable(a.id), reach_b = Reachable(b.id);
    if ((reach_a >= tokens) != (reach_b >= tokens)) return reach_a >= tokens;
    return reach_a >= tokens ? Load(a, tokens) < Load(b, tokens) : reach_a > reach_b;
  }
  double Load(const Candidate& c, uint64_t tokens) const {
    return (static_cast<double>(given_[Value(c.id)] + tokens) - 2 * static_cast<double>(c.cached)) /
           static_cast<double>(instances_[Value(c.id)].capacity + 1);
  }

  std::vector<Instance> instances_;
  std::vector<uint64_t> given_;
  std::vector<bool> alive_;
};

}  // namespace lombard
