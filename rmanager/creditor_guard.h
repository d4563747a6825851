// Whether a creditor has lent more attention than its guard allows (fabric/messages/protocol.h, GUARD): when
// to call loans back, and when to lend again. The duty itself is distattn/service_budget.h.
//
// Pure: totals and time in, decisions out.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "absl/time/time.h"

namespace lombard {

class CreditorGuard {
 public:
  struct Options {
    double guard = 0.05;  // share of the own requests' time
    // Guesses: longer than the bursts of a prefill; a recall helps within a second or two.
    absl::Duration window = absl::Milliseconds(500);
    absl::Duration after = absl::Seconds(2);
    absl::Duration again = absl::Seconds(5);
  };
  explicit CreditorGuard(const Options& options) : options_(options) {}

  // Totals of computing in own steps, and of what of it lay in steps at whose end a query lacked credit.
  // Each may be smaller than before: a new process counts from zero.
  void Observe(double own_seconds, double starved_seconds, absl::Time now) {
    if (now - window_begin_ < options_.window) return;
    const double own = own_seconds - own_, starved = starved_seconds - starved_;
    own_ = own_seconds, starved_ = starved_seconds, window_begin_ = now;
    if (own <= 0) {
      over_since_ = absl::InfiniteFuture();
      closed_until_ = absl::InfinitePast();
    } else if (2 * starved <= own) {
      over_since_ = absl::InfiniteFuture();
    } else {
      over_since_ = std::min(over_since_, now);
      if (closed(now)) closed_until_ = now + options_.again;
    }
  }
  // True once for each request whose loans are to be called back now.
  bool TakeRecall(absl::Time now) {
    if (!over() || now - over_since_ < options_.after) return false;
    over_since_ = now;
    closed_until_ = now + options_.again;
    return true;
  }
  // Nothing is lent but to older requests.
  bool closed(absl::Time now) const { return now < closed_until_; }
  // What may be lent in all while own requests run, when a debtor's step over one lent block costs `share` of
  // an own step; 0: not measured.
  uint32_t BlocksMax(double share) const {
    const double blocks = share > 0 ? options_.guard / share : std::numeric_limits<uint32_t>::max();
    return static_cast<uint32_t>(std::min<double>(blocks, std::numeric_limits<uint32_t>::max()));
  }

 private:
  bool over() const { return over_since_ != absl::InfiniteFuture(); }

  const Options options_;
  double own_ = 0, starved_ = 0;
  absl::Time window_begin_ = absl::InfinitePast(), over_since_ = absl::InfiniteFuture();
  absl::Time closed_until_ = absl::InfinitePast();
};

}  // namespace lombard
