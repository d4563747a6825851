// Goal: a creditor that loses what it held costs the tokens in it and nothing else. Whenever that happens,
// the sequence gives the tokens of an undisturbed run (equal, or first different where the two best are
// closer than 0.001), and no more tokens are computed again than were lost. Method: a real
// engine over real bytes; free, lent-away and lost blocks hold NaN, so what is read and should not be shows.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "tests/support/cluster_run.h"
#include "tests/support/loan_bench.h"

namespace lombard {
namespace {

constexpr uint32_t kBlock = 16;

class LoanLossTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    auto model = Model::Load(TestPath("tests/data/tiny"));
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = model->release();
    auto tokenizer = Tokenizer::Load(TestPath("tests/data/tiny"));
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = tokenizer->release();
    const nlohmann::json file = nlohmann::json::parse(std::ifstream(TestPath("tests/data/tiny-golden.json")));
    text_ = file["cases"][6]["prompt_ids"].get<std::vector<int32_t>>();
  }

  static std::vector<int32_t> Prompt(uint32_t tokens, uint32_t first = 0) {
    return {text_.begin() + first, text_.begin() + first + tokens};
  }

  // Of a sequence that nothing happens to.
  static LoanBench::Result Undisturbed(const std::vector<int32_t>& prompt, uint32_t max_tokens) {
    LoanBench bench({.kv_blocks = {200}, .engine = Options()}, model_, tokenizer_);
    bench.Submit(prompt, max_tokens);
    EXPECT_TRUE(bench.Run()) << bench.error();
    return bench.results()[0];
  }

  static EngineOptions Options() {
    EngineOptions options;
    options.block_tokens = kBlock;
    options.max_batch_tokens = 128;
    options.max_model_len = 4096;
    return options;
  }

  static void ExpectSame(const LoanBench::Result& got, const LoanBench::Result& wanted) {
    ASSERT_TRUE(got.error.ok()) << got.error;
    ASSERT_TRUE(got.finished);
    ASSERT_EQ(got.tokens.size(), wanted.tokens.size());
    for (size_t i = 0; i < got.tokens.size(); ++i) {
      if (got.tokens[i] != wanted.tokens[i]) {
        EXPECT_LT(wanted.gaps[i], 0.001f) << "token " << i;
        return;
      }
      ASSERT_NEAR(got.logprobs[i], wanted.logprobs[i], 1e-3) << "token " << i;
    }
  }

  static void ExpectOnlyTheLostSpanAgain(const LoanBench& bench) {
    const RecoveryStats& stats = bench.engine().recovery_stats();
    EXPECT_GT(stats.blocks_lost, 0u);
    EXPECT_EQ(stats.recomputed_tokens, stats.blocks_lost * kBlock);
    EXPECT_EQ(stats.preemptions, 0u);
  }

  static const Model* model_;
  static const Tokenizer* tokenizer_;
  static std::vector<int32_t> text_;
};
const Model* LoanLossTest::model_ = nullptr;
const Tokenizer* LoanLossTest::tokenizer_ = nullptr;
std::vector<int32_t> LoanLossTest::text_;

// 1000 tokens are 63 blocks: 8 at home, the others at four creditors.
const std::vector<uint32_t> kSmallHome = {8, 20, 20, 20, 20, 20};

TEST_F(LoanLossTest, InDecodeWhicheverCreditorItIs) {
  const LoanBench::Result alone = Undisturbed(Prompt(1000), 48);
  uint64_t losses = 0;
  for (int creditor = 1; creditor <= 5; ++creditor) {
    SCOPED_TRACE(creditor);
    LoanBench bench({.kv_blocks = kSmallHome, .engine = Options()}, model_, tokenizer_);
    bench.Submit(Prompt(1000), 48);
    bench.At(1010, [&] { bench.Lose(creditor); });
    ASSERT_TRUE(bench.Run()) << bench.error();
    ExpectSame(bench.results()[0], alone);
    losses += bench.engine().recovery_stats().loans_lost;
    if (bench.engine().recovery_stats().loans_lost == 0) continue;  // it held nothing
    ExpectOnlyTheLostSpanAgain(bench);
    EXPECT_GE(bench.engine().recovery_stats().abandoned_steps, 1u);
    EXPECT_GE(bench.refused_loans(), 1u);
  }
  EXPECT_GE(losses, 3u);
}

TEST_F(LoanLossTest, InPrefillWithKvOnItsWay) {
  const LoanBench::Result alone = Undisturbed(Prompt(1000), 16);
  for (const uint64_t rows : {200, 700}) {
    for (const bool told : {false, true}) {
      SCOPED_TRACE(rows);
      LoanBench bench({.kv_blocks = kSmallHome, .engine = Options()}, model_, tokenizer_);
      bench.Submit(Prompt(1000), 16);
      bench.At(rows, [&] {
        bench.Lose(1, told);
        bench.Lose(2, told);
      });
      ASSERT_TRUE(bench.Run()) << bench.error();
      ExpectSame(bench.results()[0], alone);
      ExpectOnlyTheLostSpanAgain(bench);
    }
  }
}

TEST_F(LoanLossTest, AgainWhileTheFirstLossIsBeingComputed) {
  const LoanBench::Result alone = Undisturbed(Prompt(1000), 48);
  for (const uint64_t later : {0, 40, 200}) {
    SCOPED_TRACE(later);
    LoanBench bench({.kv_blocks = {8, 20, 20, 20, 20, 20, 20, 20}, .engine = Options()}, model_, tokenizer_);
    bench.Submit(Prompt(1000), 48);
    bench.At(1010, [&] { bench.Lose(3, true); });
    bench.At(1010 + later, [&] { bench.Lose(1, true), bench.Lose(2, true); });
    bench.At(1020 + later, [&] { bench.Lose(4, true); });
    bench.At(1030 + later, [&] { bench.Lose(3); });
    ASSERT_TRUE(bench.Run()) << bench.error();
    ExpectSame(bench.results()[0], alone);
    ExpectOnlyTheLostSpanAgain(bench);
    EXPECT_GE(bench.engine().recovery_stats().loans_lost, 3u);
  }
}

TEST_F(LoanLossTest, WithMemoryAtHomeTheLostSpanComesHome) {
  // The first request fills the home while the second is admitted; then it ends.
  const LoanBench::Result alone = Undisturbed(Prompt(700, 100), 64);
  EngineOptions options = Options();
  options.borrow_patience = absl::ZeroDuration();
  LoanBench bench({.kv_blocks = {60, 60}, .engine = options}, model_, tokenizer_);
  bench.Submit(Prompt(800), 30);
  bench.Submit(Prompt(700, 100), 64);
  bench.At(1560, [&] {
    bench.SetLending(1, false);
    bench.Lose(1);
  });
  ASSERT_TRUE(bench.Run()) << bench.error();
  ExpectSame(bench.results()[1], alone);
  ExpectOnlyTheLostSpanAgain(bench);
}

TEST_F(LoanLossTest, WithoutMemoryForItTheSequenceWaitsForSome) {
  const LoanBench::Result alone = Undisturbed(Prompt(900), 32);
  LoanBench bench({.kv_blocks = {8, 30, 30}, .engine = Options()}, model_, tokenizer_);
  bench.Submit(Prompt(900), 32);
  bench.At(905, [&] {
    bench.Lose(1, true);
    bench.SetLending(1, false);
    bench.After(absl::Seconds(3), [&] { bench.SetLending(1, true); });
  });
  ASSERT_TRUE(bench.Run()) << bench.error();
  ExpectSame(bench.results()[0], alone);
  ExpectOnlyTheLostSpanAgain(bench);  // nobody is older, so it keeps what it has
}

TEST_F(LoanLossTest, TakenHomeItComesWithoutBeingComputedAgain) {
  const LoanBench::Result alone = Undisturbed(Prompt(700, 100), 200);
  EngineOptions options = Options();
  options.borrow_patience = absl::ZeroDuration();
  LoanBench bench({.kv_blocks = {60, 60}, .engine = options, .kv_is_fast = true}, model_, tokenizer_);
  bench.Submit(Prompt(800), 30);
  bench.Submit(Prompt(700, 100), 200);
  bench.At(1600, [&] {
    EXPECT_GT(bench.lent(1), 0u);
    bench.TakeHome(1, absl::Seconds(30));
  });
  bool repaid = false;
  for (uint64_t rows = 1601; rows < 1725; ++rows)
    bench.At(rows, [&] { repaid |= bench.lent(1) == 0; });  // while it decodes
  ASSERT_TRUE(bench.Run()) << bench.error();
  ExpectSame(bench.results()[1], alone);
  const RecoveryStats& stats = bench.engine().recovery_stats();
  EXPECT_GE(stats.blocks_returned, 700 / kBlock);
  EXPECT_EQ(stats.recomputed_tokens, 0u);
  EXPECT_TRUE(repaid);
}

TEST_F(LoanLossTest, WithoutMemoryAtHomeWhatIsTakenBackGoesElsewhere) {
  const LoanBench::Result alone = Undisturbed(Prompt(1000), 200);
  LoanBench bench({.kv_blocks = kSmallHome, .engine = Options(), .kv_is_fast = true}, model_, tokenizer_);
  bench.Submit(Prompt(1000), 200);
  bench.At(1005, [&] {
    EXPECT_GT(bench.lent(1), 0u);
    bench.TakeHome(1, absl::Seconds(30));
    bench.SetLending(1, false);
  });
  bool repaid = false;
  for (uint64_t rows = 1006; rows < 1150; ++rows)
    bench.At(rows, [&] { repaid |= bench.lent(1) == 0; });  // it may borrow there again later
  ASSERT_TRUE(bench.Run()) << bench.error();
  ExpectSame(bench.results()[0], alone);
  EXPECT_EQ(bench.engine().recovery_stats().recomputed_tokens, 0u);
  EXPECT_TRUE(repaid);
}

TEST_F(LoanLossTest, WhatHasNotComeInTimeIsComputedAgain) {
  const LoanBench::Result alone = Undisturbed(Prompt(1000), 64);
  for (const int ms : {0, 3, 30}) {
    for (const bool lost : {false, true}) {
      SCOPED_TRACE(ms);
      LoanBench bench({.kv_blocks = kSmallHome, .engine = Options()}, model_, tokenizer_);
      bench.Submit(Prompt(1000), 64);
      bench.At(1005, [&] {
        bench.TakeHome(1, absl::Milliseconds(ms));
        bench.TakeHome(2, absl::Milliseconds(ms));
        if (lost) bench.After(absl::Milliseconds(ms / 2), [&] { bench.Lose(1); });
      });
      ASSERT_TRUE(bench.Run()) << bench.error();
      ExpectSame(bench.results()[0], alone);
    }
  }
}

TEST_F(LoanLossTest, OthersGoOnAndAllGiveTheirTokens) {
  for (uint32_t seed = 1; seed <= 6; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    LoanBench bench(
        {.kv_blocks = {16 + static_cast<uint32_t>(random() % 30), 30, 25, 40, 30}, .engine = Options()},
        model_, tokenizer_);
    std::vector<std::pair<std::vector<int32_t>, uint32_t>> asked;
    uint64_t rows = 0;
    for (int i = 0; i < 5; ++i) {
      const uint32_t tokens = i == 0 ? 900 : 40 + random() % 500;
      asked.emplace_back(Prompt(tokens, random() % 400), 16 + random() % 60);
      bench.Submit(asked.back().first, asked.back().second);
      rows += tokens;
    }
    for (int i = 0; i < 6; ++i) {
      const int creditor = 1 + static_cast<int>(random() % 4);
      const bool told = random() % 2 == 0;
      bench.At(random() % (rows + 200), [&bench, creditor, told] { bench.Lose(creditor, told); });
      const absl::Duration within = absl::Milliseconds(random() % 300);
      bench.At(random() % (rows + 200), [&bench, creditor, within] { bench.TakeHome(creditor, within); });
    }
    ASSERT_TRUE(bench.Run()) << bench.error();
    for (int i = 0; i < 5; ++i) {
      SCOPED_TRACE(i);
      ExpectSame(bench.results()[i], Undisturbed(asked[i].first, asked[i].second));
    }
  }
}

TEST_F(LoanLossTest, BehindWindowsItBeginsAgain) {
  const auto model = Model::Load(TestPath("tests/data/architectures/mistral-window-d32"));
  ASSERT_TRUE(model.ok()) << model.status();
  std::vector<int32_t> prompt;
  for (int i = 0; i < 120; ++i) prompt.push_back(3 + (i * 37) % 90);
  EngineOptions options = Options();
  options.block_tokens = 4;
  options.headroom_tokens = 8;
  options.max_batch_tokens = 32;
  const auto run = [&](std::vector<uint32_t> kv_blocks, uint64_t rows, bool lost = false) {
    LoanBench bench({.kv_blocks = std::move(kv_blocks), .engine = options}, model->get(), tokenizer_);
    bench.Submit(prompt, 60);
    for (const int creditor : {1, 2}) {
      if (rows == 0) continue;
      bench.At(rows, [&, creditor] {
        lost ? bench.Lose(creditor) : bench.TakeHome(creditor, absl::Milliseconds(rows));
      });
    }
    EXPECT_TRUE(bench.Run()) << bench.error();
    return bench.results()[0];
  };
  const LoanBench::Result alone = run({60}, 0);
  for (const uint64_t rows : {20, 60, 100, 130, 150}) {
    SCOPED_TRACE(rows);
    ExpectSame(run({6, 40, 40}, rows, /*lost=*/true), alone);
    ExpectSame(run({6, 40, 40}, rows), alone);
  }
}

// A prefix of three is lent whole; it stays, is lost, or is called home.
TEST_F(LoanLossTest, OfAPrefixThatSeveralRead) {
  constexpr uint32_t kShared = 20;  // blocks
  std::vector<std::vector<int32_t>> prompts;
  std::vector<LoanBench::Result> alone;
  for (uint32_t i = 0; i < 3; ++i) {
    prompts.push_back(Prompt(kShared * kBlock));
    const std::vector<int32_t> own = Prompt(20, 500 + 40 * i);
    prompts.back().insert(prompts.back().end(), own.begin(), own.end());
    alone.push_back(Undisturbed(prompts.back(), 60));
  }
  for (const char* fate : {"stays", "lost", "home"}) {
    SCOPED_TRACE(fate);
    LoanBench bench({.kv_blocks = {100, 100}, .engine = Options(), .kv_is_fast = true}, model_, tokenizer_);
    for (const auto& prompt : prompts) bench.Submit(prompt, 60);
    bench.At(400, [&] { bench.Move(0, kShared, 1); });
    uint32_t lent = 0;
    bench.At(450, [&] {
      lent = bench.lent(1);
      if (fate == std::string("lost")) bench.Lose(1);
      if (fate == std::string("home")) bench.TakeHome(1, absl::InfiniteDuration());
    });
    ASSERT_TRUE(bench.Run()) << bench.error();
    EXPECT_EQ(lent, kShared);
    EXPECT_EQ(bench.engine().prefixes_lent(), 1u);
    for (size_t i = 0; i < prompts.size(); ++i) ExpectSame(bench.results()[i], alone[i]);
    EXPECT_EQ(bench.engine().preemptions(), 0u);
    EXPECT_EQ(bench.engine().recovery_stats().recomputed_tokens > 0, fate == std::string("lost"));
  }
}

}  // namespace
}  // namespace lombard
