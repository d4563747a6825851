#include "kvpool/kv_pool.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

namespace lombard {
namespace {

TEST(KvPool, AllocatesAllOrNothing) {
  KvPool pool(4);
  auto three = pool.Allocate(3);
  ASSERT_TRUE(three.ok());
  const auto two = pool.Allocate(2);
  EXPECT_EQ(two.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(two.status().message(), "asked for 2 KV blocks, 1 of 4 are free");
  EXPECT_EQ(pool.free_count(), 1u);
  EXPECT_TRUE(pool.CheckInvariants().ok());
}

TEST(KvPool, ABlockIsFreeOnlyAtZeroReferences) {
  std::vector<BlockId> freed;
  KvPool pool(2, [&](BlockId id) { freed.push_back(id); });
  const BlockId id = pool.Allocate(1)->front();
  pool.Retain(id);
  pool.Release(id);
  EXPECT_TRUE(freed.empty());
  EXPECT_EQ(pool.free_count(), 1u);
  pool.Release(id);
  EXPECT_EQ(freed, std::vector<BlockId>{id});
  EXPECT_EQ(pool.free_count(), 2u);
}

// Holds blocks and gives back the last ones.
class ListCache final : public BlockCache {
 public:
  explicit ListCache(KvPool* pool) : pool_(pool), blocks_(*pool->Allocate(3)) { pool_->set_cache(this); }
  uint32_t unread_blocks() const override { return static_cast<uint32_t>(blocks_.size()); }
  uint32_t Evict(uint32_t count) override {
    for (uint32_t i = 0; i < count; ++i) {
      pool_->Release(blocks_.back());
      blocks_.pop_back();
    }
    return count;
  }

 private:
  KvPool* pool_;
  std::vector<BlockId> blocks_;
};

TEST(KvPool, BlocksOfTheCacheCountAsFreeAndComeBackWhenTheyAreWanted) {
  KvPool pool(5);
  ListCache cache(&pool);
  EXPECT_EQ(pool.free_count(), 5u);
  EXPECT_EQ(pool.used_count(), 0u);
  EXPECT_TRUE(pool.Allocate(2).ok());
  EXPECT_EQ(cache.unread_blocks(), 3u) << "free ones first";
  EXPECT_TRUE(pool.Allocate(1).ok());
  EXPECT_EQ(cache.unread_blocks(), 2u);
  EXPECT_EQ(pool.Allocate(3).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(cache.unread_blocks(), 2u) << "a refusal evicts nothing";
  EXPECT_TRUE(pool.CheckInvariants().ok()) << pool.CheckInvariants();
}

TEST(KvPoolDeathTest, RefusesAReleaseOfAFreeBlock) {
  KvPool pool(1);
  EXPECT_DEATH(pool.Release(BlockId{0}), "release of free block");
  EXPECT_DEATH(pool.Release(BlockId{7}), "CHECK failed");
}

TEST(KvPool, NeverHandsOutABlockTwiceInAnyOrderOfUse) {
  for (uint32_t seed = 0; seed < 50; ++seed) {
    std::mt19937 random(seed);
    KvPool pool(64);
    std::multiset<BlockId> held;
    for (int i = 0; i < 400; ++i) {
      if (random() % 2) {
        const uint32_t count = random() % 9;
        auto ids = pool.Allocate(count);
        ASSERT_EQ(ids.ok(), count <= 64 - std::set<BlockId>(held.begin(), held.end()).size())
            << "seed " << seed;
        if (!ids.ok()) continue;
        for (BlockId id : *ids) {
          ASSERT_EQ(held.count(id), 0u) << "seed " << seed;
          held.insert(id);
        }
      } else if (!held.empty()) {
        auto it = std::next(held.begin(), random() % held.size());
        if (random() % 4 == 0) {
          pool.Retain(*it), held.insert(*it);
        } else {
          pool.Release(*it), held.erase(it);
        }
      }
      ASSERT_TRUE(pool.CheckInvariants().ok()) << "seed " << seed << " " << pool.CheckInvariants();
    }
  }
}

}  // namespace
}  // namespace lombard
