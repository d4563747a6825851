#include "kvpool/prefix_tree.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>

namespace lombard {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::IsEmpty;

constexpr uint32_t kBlockTokens = 4;

uint64_t SameHash(uint64_t, absl::Span<const int32_t>) { return 0; }

std::vector<int32_t> Repeat(std::vector<int32_t> token_of_block) {
  std::vector<int32_t> tokens;
  for (const int32_t token : token_of_block) tokens.insert(tokens.end(), kBlockTokens, token);
  return tokens;
}

class PrefixTreeTest : public ::testing::Test {
 protected:
  absl::Time At(int seconds) const { return absl::UnixEpoch() + absl::Seconds(seconds); }

  // A finished sequence: its blocks live on in the tree alone.
  std::vector<BlockId> Cache(absl::string_view salt, std::vector<int32_t> token_of_block, int seconds) {
    const std::vector<BlockId> blocks = *pool_.Allocate(token_of_block.size());
    tree_.Insert(salt, Repeat(token_of_block), blocks, At(seconds));
    pool_.ReleaseAll(blocks);
    return blocks;
  }
  size_t Cached(absl::string_view salt, std::vector<int32_t> token_of_block) const {
    return tree_.Match(salt, Repeat(token_of_block)).blocks.size();
  }
  PrefixReader PinAll(absl::string_view salt, std::vector<int32_t> token_of_block, int seconds) {
    const PrefixMatch match = tree_.Match(salt, Repeat(token_of_block));
    return tree_.Pin(match, match.tokens, At(seconds));
  }
  void TearDown() override {
    EXPECT_TRUE(tree_.CheckInvariants().ok()) << tree_.CheckInvariants();
    EXPECT_TRUE(pool_.CheckInvariants().ok()) << pool_.CheckInvariants();
  }

  std::vector<BlockId> freed_;
  KvPool pool_{16, [this](BlockId id) { freed_.push_back(id); }};
  PrefixTree tree_{&pool_, {.model_fingerprint = 1, .kv_format = "f32", .block_tokens = kBlockTokens}};
};

TEST_F(PrefixTreeTest, FindsTheLongestRunOfFullBlocks) {
  const std::vector<BlockId> blocks = Cache("", {1, 2, 3}, 0);
  EXPECT_THAT(tree_.Match("", Repeat({1, 2, 9})).blocks, ElementsAre(blocks[0], blocks[1]));
  EXPECT_THAT(tree_.Match("", Repeat({1, 2, 3, 4})).blocks, ElementsAreArray(blocks));
  EXPECT_THAT(tree_.Match("", Repeat({2, 3})).blocks, IsEmpty());
  EXPECT_EQ(tree_.node_count(), 1u);  // finding changes nothing
}

TEST_F(PrefixTreeTest, OffersTheBlockThatAgreesLongestForCopyOnWrite) {
  const std::vector<BlockId> blocks = Cache("", {1, 2}, 0);
  std::vector<int32_t> other = Repeat({1});
  other.insert(other.end(), {2, 2, 7, 7});
  const std::vector<BlockId> other_blocks = *pool_.Allocate(2);
  tree_.Insert("", other, other_blocks, At(0));

  std::vector<int32_t> prompt = Repeat({1});
  prompt.insert(prompt.end(), {2, 2, 7, 1, 5, 5});
  const PrefixMatch match = tree_.Match("", prompt);
  EXPECT_THAT(match.blocks, ElementsAre(blocks[0]));
  EXPECT_EQ(match.tokens, 7u);
  EXPECT_EQ(match.tail_block, other_blocks[1]);
  prompt.resize(5);
  EXPECT_EQ(tree_.Match("", prompt).tokens, 5u);  // a prompt that ends within a block
  pool_.ReleaseAll(other_blocks);
}

TEST_F(PrefixTreeTest, APromptThatIsCachedWholeCanBeUsedButForItsLastToken) {
  const std::vector<BlockId> blocks = Cache("", {1, 2}, 0);
  const PrefixMatch match = tree_.Match("", Repeat({1, 2}));
  const PrefixReader reader = tree_.Pin(match, match.tokens - 1, At(1));
  EXPECT_EQ(tree_.BlocksRead(reader), 1u);
  EXPECT_EQ(match.CopySource(1), blocks[1]);
  EXPECT_EQ(tree_.stats().hit_tokens, 7u);
  EXPECT_EQ(tree_.stats().copied_tokens, 3u);
}

TEST_F(PrefixTreeTest, EqualPromptsOfDifferentSaltsShareNoBlock) {
  for (const BlockHash hash : {&HashBlock, &SameHash}) {
    PrefixTree tree(&pool_, {.block_tokens = kBlockTokens}, hash);
    const std::vector<int32_t> prompt = Repeat({1, 2});
    std::vector<std::vector<BlockId>> given;
    const std::vector<std::string> salts = {"", "alice", "bob", std::string("bob\0", 4)};
    for (const std::string& salt : salts) {
      EXPECT_EQ(tree.Match(salt, prompt).tokens, 0u);  // not even a tail to copy
      given.push_back(*pool_.Allocate(2));
      EXPECT_THAT(tree.Insert(salt, prompt, given.back(), At(0)), IsEmpty());
    }
    for (size_t i = 0; i < salts.size(); ++i) {
      EXPECT_THAT(tree.Match(salts[i], prompt).blocks, ElementsAreArray(given[i]));
      pool_.ReleaseAll(given[i]);
    }
    EXPECT_EQ(tree.block_count(), 8u);
    const std::vector<PrefixNodeView> nodes = tree.Nodes();
    ASSERT_EQ(nodes.size(), 4u);
    if (hash == &HashBlock) {
      EXPECT_NE(nodes[0].hash, nodes[1].hash);
    }
    EXPECT_TRUE(tree.CheckInvariants().ok()) << tree.CheckInvariants();
  }
}

TEST_F(PrefixTreeTest, EqualHashesOfDifferentTokensNeverShareABlock) {
  PrefixTree tree(&pool_, {.block_tokens = kBlockTokens}, SameHash);
  std::vector<std::vector<BlockId>> given;
  for (int32_t i = 0; i < 4; ++i) {
    given.push_back(*pool_.Allocate(2));
    EXPECT_THAT(tree.Insert("", Repeat({i, i + 1}), given.back(), At(0)), IsEmpty());
  }
  for (int32_t i = 0; i < 4; ++i) {
    EXPECT_THAT(tree.Match("", Repeat({i, i + 1})).blocks, ElementsAreArray(given[i]));
    EXPECT_EQ(tree.Match("", Repeat({i, i})).blocks.size(), 1u);
    pool_.ReleaseAll(given[i]);
  }
  EXPECT_TRUE(tree.CheckInvariants().ok()) << tree.CheckInvariants();
}

TEST_F(PrefixTreeTest, NamesDifferByModelFormatBlockSizeSaltAndHistory) {
  const auto name = [](uint64_t model, std::string format, uint32_t block_tokens, absl::string_view salt) {
    return HashEmptyPrefix({model, std::move(format), block_tokens}, salt);
  };
  const uint64_t base = name(1, "f32", 32, "");
  EXPECT_NE(base, name(2, "f32", 32, ""));
  EXPECT_NE(base, name(1, "bf16", 32, ""));
  EXPECT_NE(base, name(1, "f32", 16, ""));
  EXPECT_NE(base, name(1, "f32", 32, "x"));
  EXPECT_NE(name(1, "f32", 32, "x"), name(1, "f32x", 32, ""));
  EXPECT_NE(HashBlock(1, {5, 6}), HashBlock(2, {5, 6}));
  EXPECT_NE(HashBlock(1, {5, 6}), HashBlock(1, {6, 5}));
  // Names travel between hosts and builds; this one was computed by an independent program.
  EXPECT_EQ(HashBlock(base, {5, 6, -7}), 0x1ee02ebc4fcf4512u);
}

TEST_F(PrefixTreeTest, InsertSplitsWhereTokensDivergeAndReportsDuplicates) {
  const std::vector<BlockId> first = Cache("", {1, 2, 3}, 0);
  const std::vector<BlockId> second = *pool_.Allocate(4);
  const auto duplicates = tree_.Insert("", Repeat({1, 2, 8, 9}), second, At(1));
  ASSERT_EQ(duplicates.size(), 2u);
  EXPECT_EQ(duplicates[1].block, 1u);
  EXPECT_EQ(duplicates[1].given, second[1]);
  EXPECT_EQ(duplicates[1].cached, first[1]);
  const std::vector<PrefixNodeView> nodes = tree_.Nodes();
  ASSERT_EQ(nodes.size(), 3u);
  EXPECT_THAT(nodes[0].blocks, ElementsAre(first[0], first[1]));
  EXPECT_EQ(nodes[0].children, 2u);
  EXPECT_THAT(nodes[1].blocks, ElementsAre(first[2]));
  EXPECT_THAT(nodes[2].blocks, ElementsAre(second[2], second[3]));
  EXPECT_EQ(nodes[2].parent, nodes[0].id);
  EXPECT_EQ(nodes[2].first_block, 2u);
  pool_.ReleaseAll(second);  // the duplicates become free, the adopted ones stay
  EXPECT_EQ(pool_.used_count(), 5u);
  EXPECT_EQ(tree_.stats().duplicate_blocks, 2u);
}

TEST_F(PrefixTreeTest, ARunningSequenceGrowsItsNodeInPlaceAndTheNextTurnGoesOnThere) {
  PrefixReader reader = tree_.Pin(tree_.Match("", Repeat({1})), 0, At(0));
  const std::vector<BlockId> blocks = *pool_.Allocate(3);
  for (int32_t i = 0; i < 3; ++i) {
    EXPECT_THAT(tree_.Extend(reader, Repeat({i}), {&blocks[i], 1}, At(i)), IsEmpty());
  }
  EXPECT_EQ(tree_.node_count(), 1u);
  tree_.Unpin(reader, At(3));
  pool_.ReleaseAll(blocks);

  reader = PinAll("", {0, 1, 2}, 4);
  const std::vector<BlockId> more = *pool_.Allocate(1);
  tree_.Extend(reader, Repeat({3}), more, At(4));
  EXPECT_EQ(tree_.node_count(), 1u);
  EXPECT_EQ(tree_.BlocksRead(reader), 4u);
  EXPECT_EQ(Cached("", {0, 1, 2, 3}), 4u);
  pool_.ReleaseAll(more);
}

TEST_F(PrefixTreeTest, ANodeWithOtherReadersDoesNotGrow) {
  Cache("", {1}, 0);
  const PrefixReader a = PinAll("", {1}, 1), b = PinAll("", {1}, 1);
  const std::vector<BlockId> blocks = *pool_.Allocate(2);
  tree_.Extend(a, Repeat({2}), {&blocks[0], 1}, At(2));
  EXPECT_EQ(tree_.BlocksRead(b), 1u);
  const std::vector<PrefixNodeView> path = tree_.Path(a);
  ASSERT_EQ(path.size(), 2u);
  EXPECT_EQ(path[0].readers, 2u);
  EXPECT_EQ(path[0].readers_ending, 1u);
  EXPECT_EQ(path[1].readers, 1u);
  // The second computed the same block: it is told, and reads on in the first's.
  const auto duplicates = tree_.Extend(b, Repeat({2}), {&blocks[1], 1}, At(2));
  ASSERT_EQ(duplicates.size(), 1u);
  EXPECT_EQ(duplicates[0].block, 1u);
  EXPECT_EQ(duplicates[0].cached, blocks[0]);
  EXPECT_EQ(tree_.Path(b)[1].readers, 2u);
  pool_.ReleaseAll(blocks);
}

TEST_F(PrefixTreeTest, PinSplitsSoThatReadersReadWholeNodes) {
  Cache("", {1, 2, 3}, 0);
  const PrefixReader two = PinAll("", {1, 2}, 1), three = PinAll("", {1, 2, 3}, 1);
  const std::vector<PrefixNodeView> path = tree_.Path(three);
  ASSERT_EQ(path.size(), 2u);
  EXPECT_EQ(path[0].blocks.size(), 2u);
  EXPECT_EQ(path[0].readers, 2u);
  EXPECT_EQ(path[1].readers, 1u);
  tree_.Unpin(two, At(2));
  // Now both nodes have the same readers: one span to a planner.
  EXPECT_EQ(tree_.Path(three)[0].readers, tree_.Path(three)[1].readers);
  EXPECT_EQ(tree_.Path(three)[0].children, 1u);
}

TEST_F(PrefixTreeTest, EvictsTheLeastRecentlyUsedLeafFromItsTail) {
  const std::vector<BlockId> old = Cache("", {1, 2, 3}, 0), recent = Cache("", {1, 2, 4, 5}, 1);
  freed_.clear();
  EXPECT_EQ(tree_.Evict(2), 2u);
  EXPECT_THAT(freed_, ElementsAre(old[2], recent[3]));
  PinAll("", {1}, 2);  // block 1 is read; 2 hangs below it
  EXPECT_EQ(tree_.unread_blocks(), 2u);
  EXPECT_EQ(tree_.Evict(9), 2u);
  EXPECT_EQ(Cached("", {1, 2}), 1u);
  EXPECT_EQ(tree_.stats().evicted_blocks, 4u);
}

TEST_F(PrefixTreeTest, UseMakesAPathYoungAndLookingDoesNot) {
  Cache("", {1}, 0);
  Cache("", {2}, 1);
  EXPECT_EQ(Cached("", {1}), 1u);
  tree_.Unpin(PinAll("", {2}, 2), At(2));
  tree_.Evict(1);
  EXPECT_EQ(Cached("", {1}), 0u);
  Cache("", {1}, 3);
  tree_.Unpin(PinAll("", {2}, 4), At(4));
  tree_.Evict(1);
  EXPECT_EQ(Cached("", {2}), 1u);
}

TEST_F(PrefixTreeTest, NeverEvictsUnderAReaderNorWhatOthersHold) {
  Cache("", {1, 2}, 0);
  const std::vector<BlockId> held = Cache("", {3, 4, 5}, 1);
  const PrefixReader reader = PinAll("", {1, 2}, 2);
  pool_.Retain(held[1]);  // such as the source of a copy
  EXPECT_EQ(tree_.Evict(16), 1u);
  EXPECT_EQ(Cached("", {1, 2}), 2u);
  EXPECT_EQ(Cached("", {3, 4, 5}), 2u);
  pool_.Release(held[1]);
  tree_.Unpin(reader, At(3));
  EXPECT_EQ(tree_.Evict(16), 4u);
  EXPECT_EQ(pool_.free_count(), pool_.total_count());
  EXPECT_EQ(tree_.node_count(), 0u);
}

TEST_F(PrefixTreeTest, AReaderThatWithdrawsTakesWhatOnlyItReadsOutOfTheTree) {
  const std::vector<BlockId> shared = Cache("", {1, 2}, 0);
  const PrefixReader mine = PinAll("", {1, 2}, 1), other = PinAll("", {1}, 1);
  const std::vector<BlockId> own = *pool_.Allocate(2);
  tree_.Extend(mine, Repeat({3, 4}), own, At(2));
  EXPECT_EQ(tree_.Withdraw(mine), 1u) << "the first block has another reader";
  EXPECT_EQ(Cached("", {1, 2, 3, 4}), 1u);
  EXPECT_EQ(pool_.references(shared[0]), 1u);
  EXPECT_EQ(pool_.references(shared[1]), 0u);
  EXPECT_EQ(pool_.references(own[0]), 1u) << "the sequence's own";
  EXPECT_TRUE(tree_.CheckInvariants().ok()) << tree_.CheckInvariants();
  tree_.Unpin(mine, At(3)), tree_.Unpin(other, At(3));
  pool_.ReleaseAll(own);
  EXPECT_EQ(tree_.Evict(9), 1u);
}

TEST_F(PrefixTreeTest, AWithdrawalStopsWhereAnotherSequenceWentOn) {
  Cache("", {1, 2}, 0);
  Cache("", {1, 2, 7}, 0);
  const PrefixReader mine = PinAll("", {1, 2}, 1);
  EXPECT_EQ(tree_.Withdraw(mine), 2u);
  EXPECT_EQ(Cached("", {1, 2, 7}), 3u);
  tree_.Unpin(mine, At(2));
}

TEST_F(PrefixTreeTest, AnAbandonedPinLeavesNoTraceInTheHitRatio) {
  Cache("", {1, 2}, 0);
  tree_.Abandon(PinAll("", {1, 2, 3}, 1));
  EXPECT_EQ(tree_.stats().queried_tokens, 0u);
  EXPECT_EQ(tree_.stats().hit_tokens, 0u);
  EXPECT_EQ(tree_.reader_count(), 0u);
  tree_.Unpin(PinAll("", {1, 2, 3}, 1), At(1));
  EXPECT_EQ(tree_.stats().queried_tokens, 12u);
  EXPECT_EQ(tree_.stats().hit_tokens, 8u);
}

TEST_F(PrefixTreeTest, GivesItsBlocksBackWhenItGoes) {
  std::optional<PrefixTree> tree;
  tree.emplace(&pool_, PrefixSpace{.block_tokens = kBlockTokens});
  const std::vector<BlockId> blocks = *pool_.Allocate(3);
  tree->Insert("", Repeat({1, 2, 3}), blocks, At(0));
  tree->Pin(tree->Match("", Repeat({1})), 4, At(0));
  pool_.ReleaseAll(blocks);
  EXPECT_EQ(pool_.used_count(), 3u);
  tree.reset();
  EXPECT_EQ(pool_.used_count(), 0u);
}

using PrefixTreeDeathTest = PrefixTreeTest;

TEST_F(PrefixTreeDeathTest, RefusesMisuse) {
  const std::vector<BlockId> blocks = Cache("", {1, 2}, 0);
  const PrefixMatch match = tree_.Match("", Repeat({1, 2}));
  EXPECT_DEATH(tree_.Pin(match, 9, At(1)), "CHECK failed");
  EXPECT_DEATH((tree_.Evict(1), tree_.Pin(match, 8, At(1))), "from before an eviction");
  EXPECT_DEATH(tree_.Unpin(PrefixReader{5}, At(1)), "no reader 5");
  EXPECT_DEATH(tree_.Insert("", Repeat({3}), {&blocks[1], 1}, At(1)), "at another place");
  EXPECT_DEATH(tree_.Insert("", {1, 1, 1}, {&blocks[1], 1}, At(1)), "CHECK failed");
}

}  // namespace
}  // namespace lombard
