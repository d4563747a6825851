// How much a creditor may attend for others while its own requests are computed: the duty of the guard
// (fabric/messages/protocol.h, GUARD). Pure: told what happened, it says what may happen next; time comes as
// seconds that others have measured.
//
//   OwnBegins, OwnWaits, OwnEnds, OwnIdle     of the worker's own steps
//   MayAttend() before a slice of attention, Attended(seconds) after it
//
// So, over any own steps in a row, what was attended while they computed is at most guard times what they
// and the one before them computed, and one slice; and what began in free time and reached into them. Not
// thread-safe.
#pragma once

#include <algorithm>

namespace lombard {

// Seconds since the start, of computing; none is counted while the worker has no own work.
struct ServiceTotals {
  double own = 0;       // in own steps
  double starved = 0;   // of these, in steps at whose end a query lacked credit
  double attended = 0;  // for others, while own steps computed
};

class ServiceBudget {
 public:
  explicit ServiceBudget(double guard) : guard_(guard) {}

  void OwnBegins() { busy_ = true; }
  // The own step waits for other workers; its core is free.
  void OwnWaits(bool waits) { waits_ = waits; }
  // The own step has computed for `seconds`, without its waiting and without what was attended meanwhile.
  // `held`: a query is there and MayAttend is false.
  void OwnEnds(double seconds, bool held) {
    waits_ = false;
    totals_.own += seconds;
    if (held) totals_.starved += seconds;
    credit_ = std::min(credit_, 0.0) + guard_ * seconds;
  }
  // No own request can run. What is owed is forgiven.
  void OwnIdle() {
    busy_ = waits_ = false;
    credit_ = 0;
  }

  // Attention costs no own request anything.
  bool free() const { return !busy_ || waits_; }
  bool MayAttend() const { return free() || credit_ > 0; }
  void Attended(double seconds) {
    if (free()) return;
    totals_.attended += seconds;
    credit_ -= seconds;
  }
  void Moved(double seconds) {  // KV of a loan
    if (!free()) credit_ -= seconds;
  }
  const ServiceTotals& totals() const { return totals_; }

 private:
  const double guard_;
  bool busy_ = false, waits_ = false;
  double credit_ = 0;  // seconds; below 0: owed
  ServiceTotals totals_;
};

}  // namespace lombard
