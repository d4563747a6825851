#include "runtime/generate/tree_order.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lombard {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(TreeOrder, PromptsThatShareNothingStayAsTheyWere) {
  EXPECT_THAT(TreeOrder({{9, 1}, {5}, {7, 7}, {}}, 1), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(TreeOrder({}, 4), IsEmpty());
}

TEST(TreeOrder, AGroupRunsWhereItsFirstPromptStoodAndInTheOrderOfItsTree) {
  EXPECT_THAT(TreeOrder({{1, 1, 3, 1}, {8, 8}, {2, 2, 5}, {1, 1, 2, 9}, {2, 2, 4}, {1, 1, 3, 0}}, 2),
              ElementsAre(3, 5, 0, 1, 4, 2));
}

TEST(TreeOrder, FewerSharedTokensThanAskedForMakeNoGroup) {
  EXPECT_THAT(TreeOrder({{3, 1}, {2, 1}, {3, 0}}, 2), ElementsAre(0, 1, 2));
  EXPECT_THAT(TreeOrder({{3, 1}, {2, 1}, {3, 0}}, 1), ElementsAre(2, 0, 1));
}

TEST(TreeOrder, EqualPromptsKeepTheirOrder) {
  EXPECT_THAT(TreeOrder({{4, 4}, {4, 4}, {4, 4}}, 2), ElementsAre(0, 1, 2));
}

}  // namespace
}  // namespace lombard
