// What a worker computes on: its CPUs or one GPU, with the KV that lies there. A worker owns one and makes
// its machine of it.
#pragma once

#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/device/device_slots.h"
#include "distattn/announced_attention.h"
#include "distattn/gpu_exchanger.h"
#include "distattn/remote_client.h"
#include "distattn/sharing_cost.h"
#include "distattn/span_attention.h"
#include "kvpool/kv_bytes.h"
#include "runtime/engine/machine.h"
#include "runtime/model/weights.h"

namespace lombard {

// A rank's end of exchanges between GPUs (distattn/gpu_exchanger.h).
struct GpuExchangeEnd {
  std::unique_ptr<Collectives> collectives;  // null: all its loans go over the transport
  GpuPlace place;
};

class Compute {
 public:
  virtual ~Compute() = default;
  virtual const KvBytes* storage() const = 0;
  virtual SpanAttention* span_attention() = 0;  // of the service thread
  // How long grouped attention takes here; about `budget` at most.
  virtual SharingCost MeasureSharing(absl::Duration budget) = 0;
  // Once.
  virtual GpuExchangeEnd MakeExchangeEnd(int /*rank*/, const Clock* /*clock*/) { return {}; }
  // Once, before KV moves: pieces of the GPU's memory through which it does. Null: there is no GPU.
  virtual absl::StatusOr<std::shared_ptr<DeviceSlots>> MakeDeviceSlots() { return nullptr; }
  // Of the service thread; not null where MakeExchangeEnd has collectives.
  virtual AnnouncedAttention* announced_attention() { return nullptr; }
  // Once. `client` is not owned and outlives the machine, as do `exchanger`, which may be null, and this.
  virtual absl::StatusOr<std::unique_ptr<Machine>> MakeMachine(RemoteClient* client,
                                                               GpuExchanger* exchanger) = 0;
};

// Makes the compute of a worker with `blocks` KV blocks. The model is not owned and outlives it.
using MakeCompute = std::function<absl::StatusOr<std::unique_ptr<Compute>>(
    const Model* model, const KvLayout& layout, uint32_t blocks)>;

}  // namespace lombard
