// Whether what several sequences read is attended to as one product: a rule on numbers that were measured
// (sharing_profile.h) or, in simulations and tests, given.
//
// Papers: Hydragen and RelayAttention group by constants; here the gain of a group of readers over s keys is
//   apart     s * sum over readers of KeySeconds(rows of the reader)
//   together  s * KeySeconds(rows of all readers) + job_seconds + rows of all readers * row_seconds
// It decides how fast a step is, never what comes out of it but for rounding.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <string>

#include "absl/types/span.h"

namespace lombard {

// Seconds, of one layer with all its heads, on this machine with all threads of a step.
struct SharingCost {
  static constexpr std::array<int, 7> kRows = {1, 2, 4, 8, 16, 32, 64};

  // Attending kRows[i] stacked query rows to one key, per key.
  std::array<double, kRows.size()> key_seconds = {};
  double job_seconds = 0;  // what one more item of a step costs, however few its rows and keys
  double row_seconds = 0;  // to stack a query row and to merge the state that comes of it

  // What is read decides and a job costs what reading `keys` keys costs: a machine whose arithmetic is free.
  static SharingCost OfReading(double keys) {
    SharingCost cost;
    cost.key_seconds.fill(1);
    cost.job_seconds = keys;
    return cost;
  }
  static SharingCost Never() { return OfReading(std::numeric_limits<double>::infinity()); }

  // Between measured points on the line through them; beyond the last one in proportion.
  double KeySeconds(int rows) const;
  double ApartSeconds(int64_t keys, absl::Span<const int> rows) const;  // rows: of each reader
  double TogetherSeconds(int64_t keys, absl::Span<const int> rows) const;
  // True when together takes clearly less. Never for one reader.
  bool Groups(int64_t keys, absl::Span<const int> rows) const;
  // The fewest keys for which `readers` readers of one row each are grouped; 0: none.
  int64_t KeysMin(int readers) const;

  std::string ToString() const;  // for people, one line
};

}  // namespace lombard
