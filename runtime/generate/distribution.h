// Percentiles of a stream of times in bounded memory: exact for the first kExact values, then to kError of the
// value. Beyond kExact values are counted by logarithmic bucket, after Masson, Rim and Lee, "DDSketch: a fast
// and fully-mergeable quantile sketch with relative-error guarantees" (2019), section 2.1.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

namespace lombard {

// Of a set of values; linear interpolation between neighbours. With count 0 the others mean nothing.
struct Percentiles {
  uint64_t count = 0;
  double mean = 0, p50 = 0, p90 = 0, p95 = 0, p99 = 0;
};
Percentiles PercentilesOf(std::vector<double> values);

// Not thread-safe.
class Distribution {
 public:
  static constexpr size_t kExact = 1 << 16;
  static constexpr double kError = 0.005;
  static constexpr double kLeast = 1e-9;  // what is less counts as this, in buckets

  void Add(double value);
  Percentiles percentiles() const;

 private:
  void Count(double value);

  std::vector<double> values_;       // until there are kExact
  std::map<int, uint64_t> buckets_;  // then all of them, by ceil(log(value) / log(growth))
  uint64_t count_ = 0;
  double sum_ = 0;
};

}  // namespace lombard
