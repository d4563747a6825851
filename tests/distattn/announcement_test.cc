#include "distattn/announcement.h"

#include <gtest/gtest.h>

namespace lombard {
namespace {

constexpr uint64_t kEpoch = 7;
bool HoldsLoan5And6(const QueryItem& item) {
  return (item.loan == 5 || item.loan == 6) && item.epoch == kEpoch;
}
Announcement Of(int debtor, std::vector<QueryItem> items) { return {{debtor, 1}, 10, std::move(items)}; }
QueryItem Item(uint64_t loan, uint64_t epoch = kEpoch) { return {.loan = loan, .epoch = epoch, .rows = 1}; }

TEST(AnnouncementTest, LoansAreLookedAtBeforeAnythingIsPromised) {
  ExchangeLane lane(1);
  AnnouncedService service(&lane);
  for (const QueryItem& bad : {Item(9), Item(6, kEpoch - 1)}) {
    const auto decision = service.OnAnnouncement(Of(0, {Item(5), bad}), true, HoldsLoan5And6);
    EXPECT_EQ(decision.answer, AnnouncementAnswer::kRefused);
    EXPECT_EQ(decision.refused_item, 1);
    EXPECT_EQ(lane.state(), ExchangeLane::State::kFree);
  }
  // Also where it could not be served anyway: the debtor's plan is stale.
  EXPECT_EQ(service.OnAnnouncement(Of(0, {Item(9)}), false, HoldsLoan5And6).answer,
            AnnouncementAnswer::kRefused);
}

TEST(AnnouncementTest, APromiseKeepsTheLaneUntilItsEnd) {
  ExchangeLane lane(1);
  AnnouncedService service(&lane);
  EXPECT_EQ(service.OnAnnouncement(Of(0, {Item(5)}), true, HoldsLoan5And6).answer, AnnouncementAnswer::kYes);
  EXPECT_EQ(service.OnAnnouncement(Of(2, {Item(6)}), true, HoldsLoan5And6).answer, AnnouncementAnswer::kBusy);
  EXPECT_TRUE(service.serving());
  service.Done();
  EXPECT_EQ(service.OnAnnouncement(Of(2, {Item(6)}), true, HoldsLoan5And6).answer, AnnouncementAnswer::kYes);
}

TEST(AnnouncementTest, WithoutACommunicatorOrWhileAskingTheAnswerIsBusy) {
  ExchangeLane lane(1);
  AnnouncedService service(&lane);
  EXPECT_EQ(service.OnAnnouncement(Of(0, {Item(5)}), false, HoldsLoan5And6).answer,
            AnnouncementAnswer::kBusy);
  ASSERT_TRUE(lane.Ask({0}, absl::InfiniteFuture()).has_value());
  EXPECT_EQ(service.OnAnnouncement(Of(0, {Item(5)}), true, HoldsLoan5And6).answer, AnnouncementAnswer::kBusy);
  EXPECT_FALSE(service.serving());
}

}  // namespace
}  // namespace lombard
