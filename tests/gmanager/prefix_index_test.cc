// The front door's model of the caches, against what a cache of full blocks would have.
#include "gmanager/prefix_index.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

#include "kvpool/block_hash.h"

namespace lombard {
namespace {

constexpr InstanceId k0{0}, k1{1};
using Names = std::vector<uint64_t>;

TEST(PrefixIndex, KnowsLeadingBlocksOnly) {
  PrefixIndex index({10, 10});
  index.Use(k0, Names{1, 2, 3});
  EXPECT_EQ(index.CachedBlocks(k0, Names{1, 2, 9}), 2u);
  EXPECT_EQ(index.CachedBlocks(k0, Names{2, 3}),
            2u);  // names are chained, so this is no sequence's beginning
  EXPECT_EQ(index.CachedBlocks(k0, Names{9, 2, 3}), 0u);
  EXPECT_EQ(index.CachedBlocks(k1, Names{1, 2, 3}), 0u);
}

TEST(PrefixIndex, DropsTheTailOfWhatWasUsedLongestAgo) {
  PrefixIndex index({4});
  index.Use(k0, Names{1, 2, 3});
  index.Use(k0, Names{1, 5});
  EXPECT_EQ(index.CachedBlocks(k0, Names{1, 2, 3}), 3u);
  index.Use(k0, Names{7});
  EXPECT_EQ(index.CachedBlocks(k0, Names{1, 2, 3}), 2u);
  EXPECT_EQ(index.CachedBlocks(k0, Names{1, 5}), 2u);
  index.Use(k0, Names{8, 9, 10});
  EXPECT_EQ(index.CachedBlocks(k0, Names{1, 2, 3}), 0u);
  EXPECT_EQ(index.CachedBlocks(k0, Names{7}), 1u);
}

// Against a cache that is written down plainly: every block with the time of its last use, a later one of a
// sequence just before the one that it follows; what was used longest ago goes when there is no room.
TEST(PrefixIndex, HasWhatACacheOfThePoolsSizeWouldHave) {
  constexpr size_t kBlocks = 32;
  std::mt19937 random(5);
  PrefixIndex index({kBlocks});
  std::map<uint64_t, uint64_t> cache;  // name -> time of its last use
  uint64_t time = 0;
  int too_long = 0, dropped = 0;
  const auto leading = [&](const Names& names) {
    const auto missing =
        std::find_if(names.begin(), names.end(), [&](uint64_t n) { return !cache.contains(n); });
    return static_cast<uint32_t>(missing - names.begin());
  };
  for (int i = 0; i < 2000; ++i) {
    Names names;
    const size_t length = random() % 40;
    for (uint64_t name = 0; names.size() < length; name = names.back())
      names.push_back(name * 4 + 1 + random() % 3);
    ASSERT_EQ(index.CachedBlocks(k0, names), leading(names));
    index.Use(k0, names);
    if (length > kBlocks) {
      ++too_long;  // it borrows, and leaves nothing
    } else {
      for (size_t at = names.size(); at-- > 0;) cache[names[at]] = ++time;
      for (; cache.size() > kBlocks; ++dropped) {
        cache.erase(std::min_element(cache.begin(), cache.end(),
                                     [](const auto& a, const auto& b) { return a.second < b.second; }));
      }
    }
    ASSERT_EQ(index.CachedBlocks(k0, names), leading(names));
    ASSERT_EQ(index.size(k0), cache.size());
  }
  EXPECT_GT(too_long, 100);
  EXPECT_GT(dropped, 1000);
}

TEST(PrefixIndex, KnowsWhatIsOnlyReadElsewhere) {
  PrefixIndex index({8, 8});
  index.Use(k0, Names{1, 2, 3});
  index.Use(k1, Names{1, 2, 9}, /*elsewhere=*/2);
  EXPECT_EQ(index.CachedBlocks(k1, Names{1, 2, 9}), 3u);
  EXPECT_EQ(index.OwnBlocks(k1, Names{1, 2, 9}), 0u);
  index.Use(k0, Names{1, 2}, /*elsewhere=*/2);
  EXPECT_EQ(index.OwnBlocks(k0, Names{1, 2, 3}), 3u) << "what it had it has";
}

TEST(PrefixIndex, ForgetsALostProcess) {
  PrefixIndex index({4, 4});
  index.Use(k0, Names{1});
  index.Use(k1, Names{1});
  index.Forget(k0);
  EXPECT_EQ(index.CachedBlocks(k0, Names{1}), 0u);
  EXPECT_EQ(index.CachedBlocks(k1, Names{1}), 1u);
}

TEST(PrefixIndex, SaltsAndModelsHaveNoNameInCommon) {
  const std::vector<int32_t> tokens(64, 7);
  const PrefixSpace space{.model_fingerprint = 1, .kv_format = "bf16", .block_tokens = 16};
  PrefixSpace other = space;
  other.model_fingerprint = 2;
  PrefixIndex index({16});
  index.Use(k0, HashFullBlocks(space, "a", tokens));
  EXPECT_EQ(index.CachedBlocks(k0, HashFullBlocks(space, "a", tokens)), 4u);
  EXPECT_EQ(index.CachedBlocks(k0, HashFullBlocks(space, "b", tokens)), 0u);
  EXPECT_EQ(index.CachedBlocks(k0, HashFullBlocks(space, "", tokens)), 0u);
  EXPECT_EQ(index.CachedBlocks(k0, HashFullBlocks(other, "a", tokens)), 0u);
}

}  // namespace
}  // namespace lombard
