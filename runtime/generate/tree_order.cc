#include "runtime/generate/tree_order.h"

#include <algorithm>
#include <numeric>

namespace lombard {

std::vector<size_t> TreeOrder(const std::vector<std::vector<int32_t>>& prompts, size_t shared_tokens_min) {
  std::vector<size_t> sorted(prompts.size());
  std::iota(sorted.begin(), sorted.end(), size_t{0});
  std::stable_sort(sorted.begin(), sorted.end(), [&](size_t a, size_t b) { return prompts[a] < prompts[b]; });
  const auto share = [&](size_t a, size_t b) {
    const auto &x = prompts[a], &y = prompts[b];
    return std::min(x.size(), y.size()) >= shared_tokens_min &&
           std::equal(x.begin(), x.begin() + static_cast<int64_t>(shared_tokens_min), y.begin());
  };
  std::vector<std::vector<size_t>> groups;
  for (const size_t i : sorted) {
    if (groups.empty() || !share(groups.back().back(), i)) groups.emplace_back();
    groups.back().push_back(i);
  }
  const auto first = [](const std::vector<size_t>& group) {
    return *std::min_element(group.begin(), group.end());
  };
  std::sort(groups.begin(), groups.end(), [&](const auto& a, const auto& b) { return first(a) < first(b); });
  std::vector<size_t> order;
  for (const auto& group : groups) order.insert(order.end(), group.begin(), group.end());
  return order;
}

}  // namespace lombard
