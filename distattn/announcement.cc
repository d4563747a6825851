#include "distattn/announcement.h"

#include "base/check.h"

namespace lombard {

AnnouncedService::Decision AnnouncedService::OnAnnouncement(const Announcement& announcement, bool pair_open,
                                                            absl::FunctionRef<bool(const QueryItem&)> holds) {
  for (size_t i = 0; i < announcement.items.size(); ++i)
    if (!holds(announcement.items[i])) return {AnnouncementAnswer::kRefused, static_cast<uint32_t>(i)};
  if (!pair_open || !lane_.OnAsked(announcement.exchange)) return {AnnouncementAnswer::kBusy};
  serving_ = true;
  return {AnnouncementAnswer::kYes};
}

void AnnouncedService::Done() {
  CHECK(serving_);
  serving_ = false;
  lane_.Done();
}

}  // namespace lombard
