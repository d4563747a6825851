// Goal: stop strings are found wherever the text is cut, and no byte of them is given out. Method: examples,
// and random texts over a tiny alphabet cut at random places against a search of the whole text.
#include "runtime/engine/stop_matcher.h"

#include <gtest/gtest.h>

#include <random>

namespace lombard {
namespace {

// The definition: the first end at which some stop string ends, the longest of those.
std::string TextBeforeStop(const std::string& text, const std::vector<std::string>& stops, bool* found) {
  for (size_t end = 1; end <= text.size(); ++end) {
    size_t longest = 0;
    for (const std::string& stop : stops) {
      if (end >= stop.size() && text.compare(end - stop.size(), stop.size(), stop) == 0)
        longest = std::max(longest, stop.size());
    }
    if (longest > 0) return *found = true, text.substr(0, end - longest);
  }
  return *found = false, text;
}

TEST(StopMatcher, HoldsBackWhatMayBecomeAStopString) {
  StopMatcher matcher({"\n\n", "END"});
  EXPECT_EQ(matcher.Push("one\n"), "one");
  EXPECT_EQ(matcher.Push(""), "");
  EXPECT_EQ(matcher.Push("two EN"), "\ntwo ");
  EXPECT_EQ(matcher.Push("D of it"), "");
  EXPECT_TRUE(matcher.matched());
  EXPECT_EQ(matcher.Finish(), "");
}

TEST(StopMatcher, GivesBackWhatItHeldAtTheEnd) {
  StopMatcher matcher({"stop"});
  EXPECT_EQ(matcher.Push("do not sto"), "do not ");
  EXPECT_EQ(matcher.Finish(), "sto");
  EXPECT_FALSE(matcher.matched());
}

TEST(StopMatcher, WithoutStopStringsHoldsNothing) {
  StopMatcher matcher({});
  EXPECT_EQ(matcher.Push("abc"), "abc");
  EXPECT_EQ(matcher.Finish(), "");
}

TEST(StopMatcher, CountsOnlyWhatEndsWhileArmed) {
  StopMatcher matcher({"ab"});
  EXPECT_EQ(matcher.Push("xaba", /*armed=*/false), "xab");
  EXPECT_EQ(matcher.Push("b"), "");  // began before it was armed, ends after
  EXPECT_TRUE(matcher.matched());
}

TEST(StopMatcher, AgreesWithASearchOfTheWholeTextHoweverItIsCut) {
  for (uint64_t seed = 0; seed < 3000; ++seed) {
    std::mt19937_64 rng(seed);
    const auto random_text = [&](size_t bytes) {
      std::string text(bytes, ' ');
      for (char& c : text) c = "ab\xc3"[rng() % 3];
      return text;
    };
    std::vector<std::string> stops;
    for (int i = rng() % 4; i >= 0; --i) stops.push_back(random_text(1 + rng() % 6));
    const std::string text = random_text(rng() % 60);
    bool expect_match;
    const std::string expected = TextBeforeStop(text, stops, &expect_match);

    StopMatcher matcher(stops);
    std::string out;
    for (size_t at = 0; at < text.size() && !matcher.matched();) {
      const size_t bytes = std::min<size_t>(rng() % 5, text.size() - at);
      out += matcher.Push({text.data() + at, bytes});
      at += bytes;
      ASSERT_EQ(out, expected.substr(0, out.size())) << "gave out part of a stop string, seed " << seed;
    }
    out += matcher.Finish();
    ASSERT_EQ(out, expected) << "seed " << seed;
    ASSERT_EQ(matcher.matched(), expect_match) << "seed " << seed;
  }
}

}  // namespace
}  // namespace lombard
