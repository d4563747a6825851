#include "runtime/generate/distribution.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

namespace lombard {
namespace {

constexpr double kGrowth = (1 + Distribution::kError) / (1 - Distribution::kError);  // of the bucket bounds

}  // namespace

Percentiles PercentilesOf(std::vector<double> values) {
  Percentiles result{.count = values.size()};
  if (values.empty()) return result;
  std::sort(values.begin(), values.end());
  const auto at = [&values](double share) {
    const double place = share * static_cast<double>(values.size() - 1);
    const size_t below = static_cast<size_t>(place);
    const size_t above = std::min(below + 1, values.size() - 1);
    return values[below] + (place - static_cast<double>(below)) * (values[above] - values[below]);
  };
  result.mean = std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
  result.p50 = at(0.50), result.p90 = at(0.90), result.p95 = at(0.95), result.p99 = at(0.99);
  return result;
}

void Distribution::Add(double value) {
  ++count_, sum_ += value;
  if (!buckets_.empty()) return Count(value);
  values_.push_back(value);
  if (values_.size() < kExact) return;
  for (const double v : std::exchange(values_, {})) Count(v);
}

void Distribution::Count(double value) {
  ++buckets_[static_cast<int>(std::ceil(std::log(std::max(value, kLeast)) / std::log(kGrowth)))];
}

Percentiles Distribution::percentiles() const {
  if (buckets_.empty()) return PercentilesOf(values_);
  const auto at = [this](double share) {
    const auto place = static_cast<uint64_t>(share * static_cast<double>(count_ - 1));
    uint64_t below = 0;
    for (const auto& [bucket, count] : buckets_) {
      below += count;
      if (below > place)
        return 2 * std::pow(kGrowth, bucket) / (kGrowth + 1);  // of equal error to both bounds
    }
    return 0.0;  // not reached: place < count_
  };
  return {.count = count_,
          .mean = sum_ / static_cast<double>(count_),
          .p50 = at(0.50),
          .p90 = at(0.90),
          .p95 = at(0.95),
          .p99 = at(0.99)};
}

}  // namespace lombard
