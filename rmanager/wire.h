// Our types in control messages.
#pragma once

#include "base/ids.h"
#include "fabric/messages/control.pb.h"
#include "rmanager/loans.h"

namespace lombard {

inline void ToWire(RequestId request, messages::RequestKey* key) {
  key->set_arrival_us(request.arrival_us);
  key->set_number(request.number);
}
inline RequestId FromWire(const messages::RequestKey& key) { return {key.arrival_us(), key.number()}; }

inline void ToWire(const Loan& loan, messages::LoanKey* key) {
  key->set_id(Value(loan.id));
  key->set_epoch(loan.epoch);
}

inline messages::Purpose ToWire(Purpose purpose) {
  switch (purpose) {
    case Purpose::kAdmission:
      return messages::PURPOSE_ADMISSION;
    case Purpose::kGrowth:
      return messages::PURPOSE_GROWTH;
    case Purpose::kMove:
      return messages::PURPOSE_MOVE;
    case Purpose::kPrefix:
      return messages::PURPOSE_PREFIX;
    case Purpose::kAdopt:
      return messages::PURPOSE_ADOPT;
  }
  return messages::PURPOSE_UNSPECIFIED;
}

}  // namespace lombard
