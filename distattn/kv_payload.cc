#include "distattn/kv_payload.h"

#include "base/check.h"
#include "base/status.h"

namespace lombard {

absl::Status PackKv(const KvBytes& storage, int layer, absl::Span<const BlockId> blocks, size_t device_max,
                    Message* message) {
  CHECK_EQ(PayloadBytes(*message), 0u);
  if (2 * static_cast<size_t>(storage.layout().block_bytes()) * blocks.size() <= device_max) {
    ASSIGN_OR_RETURN(message->device_payload, storage.Gather(layer, blocks));
    if (message->device_payload) return absl::OkStatus();
  }
  return storage.AppendTo(layer, blocks, &message->payload);
}

absl::Status StoreKv(const KvBytes& storage, int layer, absl::Span<const BlockId> blocks,
                     const Message& message) {
  return message.device_payload ? storage.Scatter(layer, blocks, message.device_payload)
                                : storage.Write(layer, blocks, message.payload);
}

}  // namespace lombard
