// Which keys a piece of work sees and where they lie, against the rule said key by key: a key at position q is
// seen from position p when q <= p and, with a window, p - q < window.
#include "kernels/cuda/attention_work.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace lombard {
namespace {

TEST(AttentionWorkTest, TheVisibleKeysAreThoseOfTheRule) {
  constexpr uint64_t kSeed = 20261131;
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  std::mt19937_64 random(kSeed);
  for (int round = 0; round < 3000; ++round) {
    // Also where a context of a million tokens ends.
    const auto far = static_cast<int32_t>(round % 3 == 0 ? (1 << 20) - 100 : 0);
    AttentionWork work;
    work.first_position = far + static_cast<int32_t>(random() % 60);
    work.first_key = static_cast<int32_t>(random() % 40);
    work.key_count = static_cast<int32_t>(random() % 40);
    const int32_t window = random() % 2 == 0 ? 0 : 1 + static_cast<int32_t>(random() % 70);
    int32_t all_begin = work.first_key + work.key_count, all_end = work.first_key;
    work.position_min = INT32_MAX, work.position_max = 0;
    std::vector<int32_t> positions(1 + random() % 3);
    for (int32_t& position : positions) {
      position = far + static_cast<int32_t>(random() % 150);
      work.position_min = std::min(work.position_min, position);
      work.position_max = std::max(work.position_max, position);
    }
    for (const int32_t position : positions) {
      const KeyRange keys = VisibleKeys(work, position, window);
      for (int32_t key = work.first_key; key < work.first_key + work.key_count; ++key) {
        const int32_t at = work.first_position + key;
        const bool seen = at <= position && (window == 0 || position - at < window);
        ASSERT_EQ(keys.begin <= key && key < keys.end, seen) << "key at " << at << " from " << position;
        if (seen) all_begin = std::min(all_begin, key), all_end = std::max(all_end, key + 1);
      }
      ASSERT_TRUE(keys.begin <= keys.end &&
                  (keys.begin == keys.end ||
                   (keys.begin >= work.first_key && keys.end <= work.first_key + work.key_count)));
    }
    const KeyRange piece = KeysOfPiece(work, window);
    ASSERT_LE(piece.begin, piece.end);
    if (all_begin >= all_end) continue;
    ASSERT_TRUE(piece.begin <= all_begin && piece.end >= all_end) << "a row sees what is not read";
    if (positions.size() == 1) {
      ASSERT_TRUE(piece.begin == all_begin && piece.end == all_end) << "read for nobody";
    }
  }
}

constexpr int32_t kTable[] = {3, 1 << 20};
constexpr KvLayout kWide{.dtype = DType::kBF16, .kv_heads = 8, .head_dim = 128, .block_tokens = 32};
// Beyond 32 bits: the slab of a large pool.
static_assert(KeyOffset(kTable, 37, 32, 8, 5, 128) ==
              (int64_t{1} << 20) * kWide.block_elements() + kWide.offset(5, 5));
static_assert(KeyOffset(kTable, 31, 32, 8, 0, 128) == 3 * kWide.block_elements() + kWide.offset(0, 31));

}  // namespace
}  // namespace lombard
