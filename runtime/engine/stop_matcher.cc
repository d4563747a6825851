#include "runtime/engine/stop_matcher.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace lombard {

StopMatcher::StopMatcher(const std::vector<std::string>& stops) {
  for (const std::string& stop : stops) {
    CHECK(!stop.empty());
    Pattern pattern{.text = stop, .fallback = std::vector<uint32_t>(stop.size(), 0)};
    for (uint32_t i = 1, length = 0; i < stop.size(); ++i) {
      while (length > 0 && stop[i] != stop[length]) length = pattern.fallback[length - 1];
      if (stop[i] == stop[length]) ++length;
      pattern.fallback[i] = length;
    }
    patterns_.push_back(std::move(pattern));
  }
}

std::string StopMatcher::Push(absl::string_view text, bool armed) {
  CHECK(!matched_);
  if (patterns_.empty()) return std::string(text);
  std::string pending = std::move(held_);
  held_.clear();
  uint32_t hold = 0;
  for (const char c : text) {
    pending.push_back(c);
    uint32_t longest = 0;
    hold = 0;
    for (Pattern& p : patterns_) {
      while (p.length > 0 && p.text[p.length] != c) p.length = p.fallback[p.length - 1];
      if (p.text[p.length] == c) ++p.length;
      if (p.length == p.text.size()) {
        longest = std::max(longest, p.length);
        p.length = p.fallback[p.length - 1];
      }
      hold = std::max(hold, p.length);
    }
    if (longest > 0 && armed) {
      matched_ = true;
      pending.resize(pending.size() - longest);
      return pending;
    }
  }
  if (text.empty()) hold = pending.size();
  held_ = pending.substr(pending.size() - hold);
  pending.resize(pending.size() - hold);
  return pending;
}

std::string StopMatcher::Finish() { return std::exchange(held_, std::string()); }

}  // namespace lombard
