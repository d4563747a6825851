// Goal: no order of requests, insertions, withdrawals and evictions makes the prefix tree differ from a plain
// map. Method: random scripts and, through the fuzz entry, mutations of short ones written to reach each
// operation.
#include "tests/kvpool/prefix_tree_model.h"

#include <gtest/gtest.h>

#include <random>

#include "tests/support/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace lombard {
namespace {

TEST(PrefixTreeModel, AgreesWithAPlainMapUnderRandomUse) {
  PrefixTreeScriptCounts counts;
  for (uint32_t seed = 0; seed < 270; ++seed) {  // 30 for each block size and hash
    std::mt19937 random(seed);
    std::vector<uint8_t> script = {static_cast<uint8_t>(seed)};
    while (script.size() < 600) script.push_back(static_cast<uint8_t>(random()));
    const absl::Status status = RunPrefixTreeScript(script, &counts);
    ASSERT_TRUE(status.ok()) << "seed " << seed << ": " << status;
  }
  // The scripts reach what they are for.
  EXPECT_GT(counts.operations, 20000u);
  EXPECT_GT(counts.hit_tokens, 5000u);
  EXPECT_GT(counts.copied_tokens, 1000u);
  EXPECT_GT(counts.duplicates, 5000u);
  EXPECT_GT(counts.evicted, 10000u);
  EXPECT_GT(counts.held_back, 1000u);
  EXPECT_GT(counts.withdrawn, 1000u);
  EXPECT_GT(counts.withdrawals_stopped, 500u);
}

TEST(PrefixTreeModel, MutatedScriptsOfTheFuzzEntryAgreeToo) {
  const auto script = [](std::initializer_list<int> bytes) {
    return std::string(bytes.begin(), bytes.end());
  };
  // Operation bytes: 0 admit, 2 extend, 4 finish, 5 abandon, 6 insert, 7 evict, 8 withdraw.
  const std::vector<std::string> corpus = {
      script({1, 6, 1, 3, 15, 15, 8, 0, 1, 7, 15, 255, 1, 2, 0, 2, 3, 3, 1, 4, 0, 7, 5}),
      script({2, 6, 0, 5, 255, 1,   255, 4,   8, 0, 0, 13, 255, 1, 255,
              4, 0, 0, 0, 13,  255, 1,   255, 0, 2, 7, 7,  5,   1}),
      script({4,  0, 1, 0, 0, 2, 0, 3, 0, 0, 2, 0, 3, 0, 0, 0, 1,
              12, 0, 0, 1, 1, 0, 2, 1, 2, 9, 9, 1, 4, 0, 7, 7}),
      script({1, 0, 1, 0, 2,   0,   3, 15, 15, 0, 1, 4, 15, 15, 0, 2, 1, 1, 255, 255, 8, 0,
              1, 2, 0, 1, 255, 255, 1, 8,  1,  5, 0, 8, 0,  0,  1, 1, 4, 0, 7,   0,   7}),
  };
  const uint64_t seed = 5;
  SCOPED_TRACE(seed);
  RunFuzzCorpus(LLVMFuzzerTestOneInput, corpus, /*rounds=*/1500, seed);
}

}  // namespace
}  // namespace lombard
