// KV blocks in a GPU's memory: per layer a slab for K and one for V, each [blocks, kv_heads, block_tokens,
// head_dim].
//
// Kernels take the addresses. Bytes for other ranks pass through two halves of pinned memory in turns, on a
// stream of their own, so that the host copies one while the other is on its way; or, on the same stream,
// through slots of device memory, which the transport reads and writes itself. A function returns when
// they are there: whoever reads a block after its step's stream has passed it, or writes one before its step
// begins, needs no further order.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "base/device/gpu_memory.h"
#include "base/device/gpu_stream.h"
#include "kvpool/kv_bytes.h"

namespace lombard {

class GpuKvStorage final : public KvBytes {
 public:
  // kResourceExhausted: the device has no room for it.
  static absl::StatusOr<std::unique_ptr<GpuKvStorage>> Create(int device, const KvLayout& layout, int layers,
                                                              uint32_t block_count);

  // Device memory.
  std::byte* k(int layer, BlockId id) const { return memory_.data<std::byte>() + Offset(2 * layer, id); }
  std::byte* v(int layer, BlockId id) const { return memory_.data<std::byte>() + Offset(2 * layer + 1, id); }
  std::byte* k_slab(int layer) const { return k(layer, BlockId{0}); }
  std::byte* v_slab(int layer) const { return v(layer, BlockId{0}); }

  // Makes the slots of Gather, which ends to use them when the caller lets go of them; before any other call.
  // kResourceExhausted: no room.
  absl::StatusOr<std::shared_ptr<DeviceSlots>> MakeSlots();

  absl::Status AppendTo(int layer, absl::Span<const BlockId> blocks, std::string* bytes) const override;
  absl::Status Write(int layer, absl::Span<const BlockId> blocks, absl::string_view bytes) const override;
  absl::StatusOr<DeviceBytes> Gather(int layer, absl::Span<const BlockId> blocks) const override;
  absl::Status Scatter(int layer, absl::Span<const BlockId> blocks, const DeviceBytes& bytes) const override;
  // A failure is kept, and shows at the next call of AppendTo or Write.
  void Poison(BlockId id) const override;
  void Copy(BlockId from, BlockId to) const override;

 private:
  struct Half {
    PinnedMemory memory;
    GpuEvent passed;  // by the copies of its last turn
  };
  GpuKvStorage(const KvLayout& layout, int layers, uint32_t block_count, DeviceMemory memory,
               std::vector<Half> halves, GpuStream stream)
      : KvBytes(layout, layers, block_count),
        memory_(std::move(memory)),
        halves_(std::move(halves)),
        stream_(std::move(stream)) {}
  // Blocks through the halves, as many as one holds at a time: `begin` enqueues their copies, `end` comes
  // when the stream has passed them.
  absl::Status InTurns(absl::Span<const BlockId> blocks,
                       absl::FunctionRef<absl::Status(Half&, absl::Span<const BlockId>)> begin,
                       absl::FunctionRef<void(const Half&, size_t blocks)> end) const;

  // Each block's K and V between the slabs and a piece where they lie one after the other.
  absl::Status CopyPiece(int layer, absl::Span<const BlockId> blocks, std::byte* piece, bool to_piece) const;

  const DeviceMemory memory_;
  std::weak_ptr<DeviceSlots> slots_;
  mutable std::mutex mutex_;  // of what follows
  mutable std::vector<Half> halves_;
  mutable GpuStream stream_;
  mutable absl::Status failure_;
};

}  // namespace lombard
