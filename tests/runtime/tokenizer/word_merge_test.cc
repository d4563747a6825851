// Goal: both merge loops are byte-pair encoding. Method: against the definition, written as plainly as it can
// be.
#include "runtime/model/tokenizer/word_merge.h"

#include <gtest/gtest.h>

#include <limits>
#include <random>

namespace lombard::tokenization {
namespace {

std::vector<int32_t> ByDefinition(const MergeTable& merges, std::vector<int32_t> ids) {
  while (true) {
    uint32_t lowest = std::numeric_limits<uint32_t>::max();
    size_t at = 0;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      const Merge* merge = merges.Find(ids[i], ids[i + 1]);
      if (merge != nullptr && merge->rank < lowest) {
        lowest = merge->rank;
        at = i;
      }
    }
    if (lowest == std::numeric_limits<uint32_t>::max()) return ids;
    ids[at] = merges.Find(ids[at], ids[at + 1])->id;
    ids.erase(ids.begin() + at + 1);
  }
}

// Tokens are runs over three letters; any two known ones may have a merge, in any order of ranks.
MergeTable RandomMerges(std::mt19937_64& rng) {
  std::vector<std::string> tokens = {"a", "b", "c"};
  MergeTable merges;
  std::vector<uint32_t> ranks(60);
  for (uint32_t i = 0; i < ranks.size(); ++i) ranks[i] = i;
  std::shuffle(ranks.begin(), ranks.end(), rng);
  for (const uint32_t rank : ranks) {
    const int32_t left = rng() % tokens.size(), right = rng() % tokens.size();
    if (merges.Find(left, right) != nullptr) continue;
    const std::string joined = tokens[left] + tokens[right];
    auto known = std::find(tokens.begin(), tokens.end(), joined);
    if (known == tokens.end()) known = tokens.insert(tokens.end(), joined);
    merges.Set(left, right, {rank, static_cast<int32_t>(known - tokens.begin())});
  }
  return merges;
}

TEST(WordMerge, ScanAndQueueGiveWhatTheDefinitionGives) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 rng(seed);
    const MergeTable merges = RandomMerges(rng);
    std::vector<int32_t> word(rng() % 120);
    for (int32_t& id : word) id = rng() % 3;
    const std::vector<int32_t> expected = ByDefinition(merges, word);
    std::vector<int32_t> by_scan = word, by_queue = word, by_size = word;
    MergeWordByScan(merges, &by_scan);
    MergeWordByQueue(merges, &by_queue);
    MergeWord(merges, &by_size);
    EXPECT_EQ(by_scan, expected);
    EXPECT_EQ(by_queue, expected);
    EXPECT_EQ(by_size, expected);
  }
}

TEST(WordMerge, EqualRanksGoFromLeftToRight) {
  MergeTable merges;
  merges.Set(0, 0, {0, 1});
  for (const auto merge : {MergeWordByScan, MergeWordByQueue}) {
    std::vector<int32_t> word = {0, 0, 0};
    merge(merges, &word);
    EXPECT_EQ(word, (std::vector<int32_t>{1, 0}));
  }
}

}  // namespace
}  // namespace lombard::tokenization
