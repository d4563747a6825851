// A guest's way into rank 0's port (fabric/reception.h), over TCP.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "fabric/reception.h"
#include "fabric/tcp_frames.h"

namespace lombard {

std::string WhoAmI();  // "host pid 17"

// Connects, proves the key, says hello. What comes next is rank 0's answer. kUnavailable: nobody listens
// there. Otherwise its refusal.
absl::StatusOr<TcpStream> EnterReception(const ReceptionRules& rules, const GuestHello& hello,
                                         const std::string& host, int port, absl::Time deadline);

}  // namespace lombard
