#include "distattn/announced_exchanges.h"

#include <chrono>
#include <thread>
#include <utility>

namespace lombard {
namespace {

constexpr std::chrono::microseconds kSleep(50);  // while the streams pass

}  // namespace

bool AnnouncedExchanges::OnAnnouncement(const Announcement& announcement, Reads reads, bool may_attend,
                                        absl::FunctionRef<void()> promised) {
  AnnouncementAnswer answer = AnnouncementAnswer::kBusy;
  if (may_attend) {
    answer = exchanger_.OnAnnouncement(announcement, [&](const QueryItem&) { return reads.status.ok(); });
  }
  if (answer == AnnouncementAnswer::kYes && !attention_.Prepare(reads.queries).ok()) {
    exchanger_.EndServing(0);
    answer = AnnouncementAnswer::kBusy;
  }
  exchanger_.Answer(announcement.exchange, answer);
  if (answer != AnnouncementAnswer::kYes) return false;
  under_way_ = true;
  held_ = std::move(reads.held);
  pair_ = {announcement.exchange.starter, exchanger_.rank()};
  promised();
  const absl::Status submitted = attention_.Submit(exchanger_.collectives(), pair_);
  state_bytes_ = submitted.ok() ? attention_.state_bytes() : 0;
  if (!submitted.ok()) exchanger_.ClosePair(pair_);
  return true;
}

void AnnouncedExchanges::EndIfOver() {
  if (!under_way_) return;
  exchanger_.WatchServing();
  const absl::StatusOr<bool> ended = attention_.Ended();
  if (ended.ok() && !*ended) return;
  if (!ended.ok()) exchanger_.ClosePair(pair_);  // the device has failed
  if (state_bytes_ > 0) seconds_ += attention_.seconds();
  End();
}

void AnnouncedExchanges::Stop() {
  EndIfOver();
  if (!under_way_) return;
  exchanger_.CutServing();
  for (; under_way_ && exchanger_.hung().ok(); EndIfOver()) std::this_thread::sleep_for(kSleep);
}

void AnnouncedExchanges::End() {
  under_way_ = false;
  held_.clear();
  exchanger_.EndServing(state_bytes_);
}

}  // namespace lombard
