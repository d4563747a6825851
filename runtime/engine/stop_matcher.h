// Finds stop strings in text that arrives in pieces. Pure text; which tokens it came from does not matter:
// the result is the same however the text is cut.
//
//   StopMatcher matcher({"\n\n", "END"});
//   out += matcher.Push("one\n");     // "one": the line end may be the start of a stop string and is held
//   back out += matcher.Push("two");       // "\ntwo" out += matcher.Push("\n\nthree"); // "": matched() is
//   now true, the text ends before the stop string
//
// The stop string that is completed first counts; of several completed by the same byte, the longest.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace lombard {

class StopMatcher {
 public:
  explicit StopMatcher(const std::vector<std::string>& stops);  // REQUIRES: no empty one

  // Appends `text` and returns what is now certain to come before any stop string. With `armed` false a stop
  // string that ends in `text` does not count. REQUIRES: not matched().
  std::string Push(absl::string_view text, bool armed = true);
  // The end of the text: returns what was held back; empty when matched().
  std::string Finish();

  bool matched() const { return matched_; }

 private:
  // One stop string and how much of it the text ends with (Knuth, Morris, Pratt).
  struct Pattern {
    std::string text;
    std::vector<uint32_t> fallback;  // [i]: longest proper border of the first i + 1 bytes
    uint32_t length = 0;
  };

  std::vector<Pattern> patterns_;
  std::string held_;  // the longest end of the text that may be the start of a stop string
  bool matched_ = false;
};

}  // namespace lombard
