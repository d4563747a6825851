// What a creditor answers to an announcement: "exchange x of step s, these rows against spans of these
// loans". A yes is a promise to submit all layers at once (SubmitCreditorExchange), so everything that could
// refuse it is looked at before, and the blocks that it reads are held until it has ended
// (announced_exchanges.h). A state machine beside the rank's lane.
//
//   loans first   a loan that is not held here, or of another epoch: kRefused, which item, before anything is
//                 submitted; the debtor's Query over Transport is refused as well, and it replans
//   then the way  the pair's communicator is not open, or the lane is taken: kBusy; the exchange goes over
//                 Transport
//   yes           the lane serves it: the answer leaves, then all is submitted (fabric/collectives.h);
//                 rows of requests that are dropped meanwhile are attended all the same
//   the end       the caller finds that its stream has passed, or has closed the pair: Done
#pragma once

#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"
#include "distattn/wire.h"
#include "fabric/exchange_lane.h"

namespace lombard {

struct Announcement {
  ExchangeId exchange;  // its starter is the debtor
  uint64_t step = 0;
  std::vector<QueryItem> items;  // the same for all layers; windows are the layers' own
};

enum class AnnouncementAnswer : uint8_t { kYes, kBusy, kRefused };

class AnnouncedService {
 public:
  // Borrows the rank's lane.
  explicit AnnouncedService(ExchangeLane* lane) : lane_(*lane) {}

  struct Decision {
    AnnouncementAnswer answer = AnnouncementAnswer::kBusy;
    uint32_t refused_item = 0;  // for kRefused
  };
  // holds: the item's loan is held here, with its epoch and slots. pair_open: Collectives::IsOpen.
  Decision OnAnnouncement(const Announcement& announcement, bool pair_open,
                          absl::FunctionRef<bool(const QueryItem&)> holds);
  bool serving() const { return serving_; }
  // REQUIRES: serving, and the exchange has ended here.
  void Done();

 private:
  ExchangeLane& lane_;
  bool serving_ = false;
};

}  // namespace lombard
