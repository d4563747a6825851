// The front door's model of the caches, against what a cache of full blocks would have.
#include "gmanager/prefix_index.h"

#include <gtest/gtest.h>

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

TEST(PrefixIndex, NeverHoldsMoreNamesThanThePoolHasBlocks) {
  std::mt19937 random(5);
  PrefixIndex index({32});
  for (int i = 0; i < 2000; ++i) {
    Names names;
    for (uint64_t name = 0; names.size() < random() % 40; name = names.back())
      names.push_back(name * 4 + 1 + random() % 3);
    index.Use(k0, names);
    ASSERT_LE(index.size(k0), 32u);
    ASSERT_EQ(index.CachedBlocks(k0, names),
              names.size() > 32 ? index.CachedBlocks(k0, names) : names.size());
  }
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
