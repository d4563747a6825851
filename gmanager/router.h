// Which instance a request goes to: the one where the work given out, in tokens, is smallest for the memory
// it has. Pure; ties go to the lowest id. A request that only some instances could ever hold goes to one of
// these.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/ids.h"

namespace lombard {

class Router {
 public:
  struct Instance {
    uint64_t capacity = 0;   // tokens of its own pool
    uint64_t reachable = 0;  // tokens one request at home here could hold, borrowed ones included
  };
  explicit Router(std::vector<Instance> instances)
      : instances_(std::move(instances)), given_(instances_.size(), 0) {}

  // The instance for a request of at most `tokens`; it is charged until Done. Where none can hold it: the one
  // that comes closest. `wanted` is taken as it is.
  InstanceId Pick(uint64_t tokens, std::optional<InstanceId> wanted = {}) {
    size_t best = wanted.has_value() ? Value(*wanted) : 0;
    for (size_t i = 1; !wanted.has_value() && i < instances_.size(); ++i) {
      const bool fits = instances_[i].reachable >= tokens, best_fits = instances_[best].reachable >= tokens;
      if (fits != best_fits ? fits
          : fits            ? Load(i, tokens) < Load(best, tokens)
                            : instances_[i].reachable > instances_[best].reachable) {
        best = i;
      }
    }
    given_[best] += tokens;
    return InstanceId(best);
  }
  void Done(InstanceId instance, uint64_t tokens) { given_[Value(instance)] -= tokens; }

 private:
  double Load(size_t i, uint64_t tokens) const {
    return static_cast<double>(given_[i] + tokens) / static_cast<double>(instances_[i].capacity + 1);
  }
  std::vector<Instance> instances_;
  std::vector<uint64_t> given_;
};

}  // namespace lombard
