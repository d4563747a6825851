// Draws of a simulation: the same on every machine for the same seed.
#pragma once

#include <cstdint>
#include <random>

#include "absl/time/time.h"

namespace lombard {

class SimRandom {
 public:
  explicit SimRandom(uint64_t seed) : engine_(seed) {}
  uint64_t operator()() { return engine_(); }
  uint64_t Below(uint64_t n) { return engine_() % n; }
  uint32_t Between(uint32_t low, uint32_t high) {  // both included
    return low + static_cast<uint32_t>(engine_() % (uint64_t{high} - low + 1));
  }
  absl::Duration Between(absl::Duration low, absl::Duration high) {
    const uint64_t range = static_cast<uint64_t>(absl::ToInt64Microseconds(high - low));
    return low + absl::Microseconds(static_cast<int64_t>(engine_() % (range + 1)));
  }
  bool Chance(double p) { return static_cast<double>(engine_() >> 11) * 0x1p-53 < p; }

 private:
  std::mt19937_64 engine_;
};

}  // namespace lombard
