#include "kernels/kv_layout.h"

#include <gtest/gtest.h>

#include <vector>

namespace lombard {
namespace {

constexpr KvLayout kLayout{DType::kBF16, 3, 80, 16};
static_assert(kLayout.block_elements() == 3 * 16 * 80);
static_assert(kLayout.block_bytes() == 3 * 16 * 80 * 2);

TEST(KvLayoutTest, VectorsFillABlockWithoutGapOrOverlap) {
  std::vector<int> covered(kLayout.block_elements(), 0);
  for (int head = 0; head < kLayout.kv_heads; ++head) {
    for (int slot = 0; slot < kLayout.block_tokens; ++slot) {
      for (int d = 0; d < kLayout.head_dim; ++d) ++covered[kLayout.offset(head, slot) + d];
    }
  }
  EXPECT_EQ(covered, std::vector<int>(kLayout.block_elements(), 1));
}

}  // namespace
}  // namespace lombard
