// Goal: steps are filled up to few shapes, by little, with what changes nothing.
#include "distattn/gpu_step_shape.h"

#include <gmock/gmock.h>

#include <set>

namespace lombard {
namespace {

TEST(GpuStepShapeTest, RowsAreFilledUpByHalfAtMostAndNeverBeyondTheMemory) {
  std::set<int> sizes;
  for (int rows = 1; rows <= 1000; ++rows) {
    const int padded = PaddedRows(rows, 1000);
    EXPECT_GE(padded, rows);
    EXPECT_LE(padded, std::min(rows <= 8 ? 2 * rows - 1 : rows + rows / 2, 1000)) << rows;
    EXPECT_EQ(PaddedRows(padded, 1000), padded);
    sizes.insert(padded);
  }
  EXPECT_THAT(sizes, testing::ElementsAre(1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512,
                                          768, 1000));
  EXPECT_EQ(PaddedRows(5, 6), 6);
}

TEST(GpuStepShapeTest, CountsAreFilledUpByAnEighthAtMost) {
  std::set<int> sizes;
  for (int count = 0; count <= 1 << 16; ++count) {
    const int padded = PaddedCount(count);
    ASSERT_GE(padded, count);
    ASSERT_LE(padded, count + count / 8) << count;
    sizes.insert(padded);
  }
  EXPECT_EQ(sizes.size(), 17u + 12 * 8);  // up to 16 all, then 8 of each octave
}

TEST(GpuStepShapeTest, WhatIsAddedDoesNothing) {
  const KvLayout layout{DType::kBF16, 2, 64, 16};
  std::vector<int32_t> positions = {999, 70, 5000, 0};  // the last row fills up
  std::vector<AttentionItem> items;
  for (int row = 0; row < 3; ++row)
    items.push_back({.token_count = positions[row] + 1, .first_position = 0, .rows = {row}});
  const AttentionSchedule plain = PlanAttention(layout, 8, positions, items);
  AttentionSchedule padded = plain;
  const GpuStepShape shape = PadSchedule(4, &padded);
  EXPECT_EQ(shape.rows, 4);
  EXPECT_EQ(shape.listed_rows, static_cast<int>(padded.rows.size()));
  EXPECT_EQ(shape.merged_states, static_cast<int>(padded.merge_states.size()));
  EXPECT_GE(shape.listed_rows, 4);
  EXPECT_EQ(padded.merge_begin, plain.merge_begin);
  EXPECT_EQ(padded.state_rows, plain.state_rows);
  size_t at = 0, plain_at = 0;
  for (int kernel = 0; kernel < kAttentionKernels; ++kernel) {
    EXPECT_EQ(padded.work_count[kernel], shape.work[kernel]);
    for (int i = 0; i < padded.work_count[kernel]; ++i, ++at) {
      const bool real = i < plain.work_count[kernel];
      EXPECT_EQ(padded.work[at].rows, real ? plain.work[plain_at + i].rows : 0);
      EXPECT_EQ(padded.work[at].first_state, real ? plain.work[plain_at + i].first_state : 0);
    }
    plain_at += plain.work_count[kernel];
  }
  EXPECT_EQ(at, padded.work.size());
}

// A batch whose contexts grow is one shape for many steps.
TEST(GpuStepShapeTest, ABatchThatDecodesHasFewShapes) {
  const KvLayout layout{DType::kBF16, 8, 128, 32};
  std::set<GpuStepShape> shapes;
  for (int step = 0; step < 3000; ++step) {
    std::vector<int32_t> positions(48, 0);
    std::vector<AttentionItem> items;
    for (int row = 0; row < 40; ++row) {
      positions[row] = 1000 + 17 * row + step;
      items.push_back({.token_count = positions[row] + 1, .first_position = 0, .rows = {row}});
    }
    AttentionSchedule schedule = PlanAttention(layout, 32, positions, items);
    shapes.insert(PadSchedule(48, &schedule));
  }
  EXPECT_LE(shapes.size(), 20u);
}

}  // namespace
}  // namespace lombard
