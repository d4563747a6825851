// The plan of a step's attention: every row meets every key of its spans once, in order, whatever the cut.
#include "kernels/cuda/attention_schedule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <numeric>
#include <random>

#include "tests/kernels/kernel_test.h"

namespace lombard {
namespace {

using testing::ElementsAre;

std::vector<int32_t> Rows(int first, int count) {
  std::vector<int32_t> rows(count);
  std::iota(rows.begin(), rows.end(), first);
  return rows;
}

TEST(AttentionSchedule, PartsCoverEachSpanOnceAndMergesNameThemInOrder) {
  std::mt19937_64 random(5);
  for (int round = 0; round < 200; ++round) {
    KvLayout layout;
    layout.dtype = kAllDTypes[round % 3];
    layout.head_dim = Pick(random, {8, 64, 80, 128});
    layout.kv_heads = Pick(random, {1, 2}), layout.block_tokens = 32;
    const int group = Pick(random, {1, 3, 4, 8, 16, 17, 128, 130});
    const int step_rows = Pick(random, {1, 5, 200});
    std::vector<int32_t> positions(step_rows);
    for (int32_t& position : positions) position = random() % 1000;
    std::vector<AttentionItem> items;
    for (int i = Pick(random, {0, 1, 4}); i > 0; --i) {
      AttentionItem item;
      item.token_count = Pick(random, {0, 1, 127, 128, 129, 5000, 9000, 40000});
      item.first_position = 7 * i, item.first_block = 100 * i;
      item.remote = Pick(random, {0, 0, 1}), item.shared = Pick(random, {0, 0, 1});
      const int first = random() % step_rows;
      item.rows = Rows(first, 1 + random() % (step_rows - first));
      items.push_back(item);
    }
    const AttentionSchedule schedule = PlanAttention(layout, layout.kv_heads * group, positions, items);
    // What computes each state row.
    std::vector<const AttentionWork*> state(schedule.state_rows);
    int last_kernel = 0, counts[kAttentionKernels] = {};
    for (const AttentionWork& work : schedule.work) {
      ASSERT_GE(work.kernel, last_kernel);
      last_kernel = work.kernel, ++counts[work.kernel];
      const auto kernel = static_cast<AttentionKernel>(work.kernel);
      ASSERT_LE(work.rows, AttentionRowsMax(kernel, group));
      if (kernel != AttentionKernel::kPlain) {
        ASSERT_LE(work.rows * group,
                  kernel == AttentionKernel::kTiles ? kTileColumns : std::max(group, kDecodeColumns));
      }
      for (int r = 0; r < work.rows; ++r) {
        const int position = positions[schedule.rows[work.first_row + r]];
        ASSERT_TRUE(work.position_min <= position && position <= work.position_max);
        ASSERT_EQ(state[work.first_state + r], nullptr);
        state[work.first_state + r] = &work;
      }
    }
    EXPECT_TRUE(std::equal(counts, counts + kAttentionKernels, schedule.work_count));
    ASSERT_EQ(schedule.merge_begin.size(), step_rows + 1u);
    std::vector<bool> merged(schedule.state_rows);
    for (int row = 0; row < step_rows; ++row) {
      int at = schedule.merge_begin[row];
      for (size_t i = 0; i < items.size(); ++i) {
        const auto place = std::find(items[i].rows.begin(), items[i].rows.end(), row);
        if (place == items[i].rows.end()) continue;
        for (int key = 0; key < items[i].token_count; ++at) {
          const int s = schedule.merge_states[at];
          ASSERT_FALSE(merged[s]);
          merged[s] = true;
          if (items[i].remote) {
            ASSERT_EQ(s, schedule.item_states[i] + (place - items[i].rows.begin()));
            ASSERT_EQ(state[s], nullptr);
            break;
          }
          const AttentionWork& work = *state[s];
          ASSERT_EQ(schedule.rows[work.first_row + s - work.first_state], row);
          ASSERT_EQ(work.first_block, items[i].first_block);
          ASSERT_EQ(work.first_position, items[i].first_position);
          ASSERT_EQ(work.first_key, key);
          key += work.key_count;
          ASSERT_LE(key, items[i].token_count);
        }
        at += items[i].remote && items[i].token_count > 0;
      }
      ASSERT_EQ(at, schedule.merge_begin[row + 1]);
    }
    EXPECT_EQ(std::count(merged.begin(), merged.end(), true), schedule.state_rows);
  }
}

// Long prefills are not cut: the states would cost as much memory as time.
TEST(AttentionSchedule, RowsThatFillTheChipAttendTheirSpanWhole) {
  const KvLayout layout{DType::kBF16, 8, 128, 32};
  const auto states = [&](int rows, bool shared) {
    const AttentionItem item{.token_count = 100000, .rows = Rows(0, rows), .shared = shared};
    return PlanAttention(layout, 32, std::vector<int32_t>(rows, 100000), {item}).state_rows;
  };
  EXPECT_EQ(states(512, false), 512);
  EXPECT_EQ(states(511, false), 511 * 7);
  EXPECT_EQ(states(512, true), 512 * 7);
}

// The cuts of a span, and so the order of additions, are the same in any company.
TEST(AttentionSchedule, CutsDependOnTheSpanAlone) {
  const KvLayout layout{DType::kBF16, 8, 128, 32};
  const AttentionItem one{.token_count = 20000, .rows = {0}};
  const auto cuts = [](const AttentionSchedule& schedule, int row) {
    std::vector<std::pair<int, int>> keys;
    for (const AttentionWork& work : schedule.work) {
      if (schedule.rows[work.first_row] == row) keys.emplace_back(work.first_key, work.key_count);
    }
    return keys;
  };
  const auto alone = cuts(PlanAttention(layout, 32, std::vector<int32_t>(1), {one}), 0);
  std::vector<AttentionItem> items(40, AttentionItem{.token_count = 100, .rows = {0}});
  items[17] = one;
  for (int i = 0; i < 40; ++i) items[i].rows = {i};
  EXPECT_EQ(cuts(PlanAttention(layout, 32, std::vector<int32_t>(40), items), 17), alone);
}

TEST(AttentionSchedule, OneRequestFillsTheChipWithPieces) {
  const auto parts = [](int tokens) {
    const int keys = AttentionPartKeys(AttentionKernel::kDecode, tokens);
    return (tokens + keys - 1) / keys;
  };
  // Times 8 KV heads: two pieces and more for each of 132 processors.
  EXPECT_THAT((std::vector<int>{parts(1), parts(128), parts(1024), parts(4096), parts(8192), parts(131072)}),
              ElementsAre(1, 1, 8, 32, 32, 128));
}

TEST(AttentionSchedule, KernelsAreChosenByColumns) {
  const KvLayout fast{DType::kBF16, 8, 128, 32}, odd{DType::kF16, 8, 72, 32}, fp32{DType::kF32, 8, 128, 32};
  EXPECT_EQ(ChooseAttentionKernel(fast, 4, 8, false), AttentionKernel::kDecode);
  EXPECT_EQ(ChooseAttentionKernel(fast, 4, 9, false), AttentionKernel::kTiles);
  EXPECT_EQ(ChooseAttentionKernel(fast, 1, 2, true), AttentionKernel::kTiles);
  EXPECT_EQ(ChooseAttentionKernel(fast, 33, 1, false), AttentionKernel::kTiles);
  EXPECT_EQ(ChooseAttentionKernel(fast, 129, 1, false), AttentionKernel::kPlain);
  EXPECT_EQ(ChooseAttentionKernel(odd, 4, 1, false), AttentionKernel::kPlain);
  EXPECT_EQ(ChooseAttentionKernel({DType::kF16, 8, 64, 24}, 4, 1, false), AttentionKernel::kPlain);
  EXPECT_EQ(ChooseAttentionKernel(fp32, 4, 1, false), AttentionKernel::kPlain);
}

}  // namespace
}  // namespace lombard
