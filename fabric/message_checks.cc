#include "fabric/message_checks.h"

#include "absl/strings/str_cat.h"
#include "base/units.h"

namespace lombard {

absl::Status CheckSend(const Message& message, int to, int size, size_t device_payload_max) {
  if (to < 0 || to >= size) {
    return absl::InvalidArgumentError(
        absl::StrCat("message to rank ", to, ": the job has ranks 0 to ", size - 1));
  }
  if (message.header.size() > kMessageHeaderBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("message header of ", message.header.size(),
                                                   " bytes, at most ", kMessageHeaderBytesMax,
                                                   ": put bulk data into the payload"));
  }
  if (message.payload.size() > kMessagePayloadBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("message payload of ", FormatBytes(message.payload.size()),
                                                   ", at most ", FormatBytes(kMessagePayloadBytesMax),
                                                   ": send it in parts"));
  }
  if (!message.device_payload) return absl::OkStatus();
  if (message.device_payload.bytes > device_payload_max ||
      message.header.size() > kDevicePayloadHeaderBytesMax || !message.payload.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a payload of ", FormatBytes(message.device_payload.bytes), " in device memory, at most ",
        FormatBytes(device_payload_max), " for rank ", to, ", with a header of ", message.header.size(),
        " bytes, at most ", kDevicePayloadHeaderBytesMax, ", and ", message.payload.size(),
        " bytes of payload in host memory, which must be none"));
  }
  return absl::OkStatus();
}

absl::Status CheckQueue(const Message& message, int to, uint64_t queued) {
  if (queued == 0 || queued + MessageBytes(message) <= kSendQueueBytesMax) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(FormatBytes(queued), " wait for rank ", to, ", at most ",
                                                   FormatBytes(kSendQueueBytesMax),
                                                   ": let earlier messages be answered first"));
}

absl::Status PeerGoneError(int to) {
  return absl::UnavailableError(absl::StrCat("rank ", to, " has left the job"));
}
absl::Status ClosedError() { return absl::FailedPreconditionError("the transport is closed"); }

}  // namespace lombard
