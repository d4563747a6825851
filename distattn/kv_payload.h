// KV blocks as the payload of a message. It stays in a GPU's memory where the storage, a free slot and the
// transport allow it; else it passes through the host's. Either way the bytes are those of KvBytes::AppendTo,
// and whoever receives them need not have sent them the same way.
#pragma once

#include <cstddef>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "fabric/transport.h"
#include "kvpool/kv_bytes.h"

namespace lombard {

// REQUIRES: the message has no payload. `device_max`: Transport::device_payload_max of its receiver.
absl::Status PackKv(const KvBytes& storage, int layer, absl::Span<const BlockId> blocks, size_t device_max,
                    Message* message);
// REQUIRES: PayloadBytes(message) is what the blocks take.
absl::Status StoreKv(const KvBytes& storage, int layer, absl::Span<const BlockId> blocks,
                     const Message& message);

}  // namespace lombard
