#include "runtime/engine/stop_checker.h"

#include <gtest/gtest.h>

namespace lombard {
namespace {

class StopCheckerTest : public testing::Test {
 protected:
  void SetUp() override {
    auto tokenizer = Tokenizer::Load("tests/data/tiny");
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *std::move(tokenizer);
  }
  // The end reason and the text after pushing the tokens of `text`, and how many were taken.
  std::string Run(StopChecker& checker, absl::string_view text, size_t* taken = nullptr) {
    size_t count = 0;
    for (int32_t id : tokenizer_->Encode(text, false)) {
      ++count;
      const auto reason = checker.Push(id);
      EXPECT_EQ(checker.text(), text.substr(0, checker.text().size()));
      if (reason.has_value()) {
        if (taken != nullptr) *taken = count;
        return *reason;
      }
    }
    return "";
  }
  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_F(StopCheckerTest, EndsAtMaxTokensWithTheWholeText) {
  SamplingParams params;
  params.max_tokens = static_cast<uint32_t>(tokenizer_->Encode("one two three", false).size());
  StopChecker checker(tokenizer_.get(), params, {});
  EXPECT_EQ(Run(checker, "one two three"), "length");
  EXPECT_EQ(checker.text(), "one two three");
}

TEST_F(StopCheckerTest, AStopStringAcrossTokensEndsTheTextBeforeIt) {
  SamplingParams params;
  params.max_tokens = 1000;
  params.stop = {"wo th"};
  StopChecker checker(tokenizer_.get(), params, {});
  EXPECT_EQ(Run(checker, "one two three"), "stop");
  EXPECT_EQ(checker.text(), "one t");
}

TEST_F(StopCheckerTest, AnEosStopsUnlessIgnoredOrTooEarlyAndShowsNoText) {
  const int32_t eos = tokenizer_->Encode("x", false)[0];
  SamplingParams params;
  params.max_tokens = 1000;
  StopChecker stops(tokenizer_.get(), params, {eos});
  EXPECT_EQ(stops.Push(eos), "stop");
  EXPECT_EQ(stops.text(), "");
  params.min_tokens = 1;
  StopChecker early(tokenizer_.get(), params, {eos});
  EXPECT_EQ(early.Push(eos), std::nullopt);
  EXPECT_EQ(early.Push(eos), "stop");
  EXPECT_EQ(early.text(), "x");
  params.ignore_eos = true;
  StopChecker ignores(tokenizer_.get(), params, {eos});
  EXPECT_EQ(ignores.Push(eos), std::nullopt);
  EXPECT_EQ(ignores.Push(eos), std::nullopt);
  params.stop_token_ids = {eos};
  StopChecker named(tokenizer_.get(), params, {});
  EXPECT_EQ(named.Push(eos), std::nullopt);
  EXPECT_EQ(named.Push(eos), "stop");
}

TEST_F(StopCheckerTest, HalfACharacterIsHeldBackUntilTheEnd) {
  const std::vector<int32_t> ids = tokenizer_->Encode("\xe2\x82\xac", false);  // one character of three bytes
  ASSERT_GT(ids.size(), 1u);
  SamplingParams params;
  params.max_tokens = static_cast<uint32_t>(ids.size());
  StopChecker checker(tokenizer_.get(), params, {});
  for (size_t i = 0; i + 1 < ids.size(); ++i) {
    EXPECT_EQ(checker.Push(ids[i]), std::nullopt);
    EXPECT_EQ(checker.text(), "");
  }
  EXPECT_EQ(checker.Push(ids.back()), "length");
  EXPECT_EQ(checker.text(), "\xe2\x82\xac");
}

}  // namespace
}  // namespace lombard
