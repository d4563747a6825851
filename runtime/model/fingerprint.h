// A 64-bit hash that is the same on every host and in every build (absl::Hash is seeded per process).
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace lombard {

class Fingerprint {
 public:
  void Add(uint64_t value) { state_ = Mix(state_ ^ value); }
  void Add(absl::string_view text) {
    Add(text.size());
    for (const char c : text) Add(static_cast<unsigned char>(c));
  }
  uint64_t value() const { return state_; }

  // The finaliser of splitmix64 (Steele, Lea, Flood 2014) over a running sum.
  static uint64_t Mix(uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
  }

 private:
  uint64_t state_ = 0;
};

}  // namespace lombard
