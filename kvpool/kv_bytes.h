// The bytes of a worker's KV blocks, wherever they lie: in host memory (kv_storage.h) or in a GPU's
// (gpu_kv_storage.h). What remote attention and the engine need of them; kernels take addresses.
//
// Thread rule: disjoint blocks may be read and written by different threads; who may touch a block is decided
// by KvPool and the ledger, not here. Every function has done its work when it returns.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/check.h"
#include "base/device/device_slots.h"
#include "base/ids.h"
#include "kernels/attention.h"

namespace lombard {

class KvBytes {
 public:
  virtual ~KvBytes() = default;
  KvBytes(const KvBytes&) = delete;
  KvBytes& operator=(const KvBytes&) = delete;

  const KvLayout& layout() const { return layout_; }
  int layers() const { return layers_; }
  uint32_t block_count() const { return block_count_; }

  // One layer of `blocks`: per block its K, then its V, each layout().block_bytes().
  virtual absl::Status AppendTo(int layer, absl::Span<const BlockId> blocks, std::string* bytes) const = 0;
  // REQUIRES: bytes has that size.
  virtual absl::Status Write(int layer, absl::Span<const BlockId> blocks, absl::string_view bytes) const = 0;
  // The same bytes as a piece of device memory. None: the blocks are not in a GPU's memory, or no slot is
  // free that holds them.
  virtual absl::StatusOr<DeviceBytes> Gather(int /*layer*/, absl::Span<const BlockId> /*blocks*/) const {
    return DeviceBytes{};
  }
  // REQUIRES: bytes has that size; the storage has given slots to the transport.
  virtual absl::Status Scatter(int /*layer*/, absl::Span<const BlockId> /*blocks*/,
                               const DeviceBytes& /*bytes*/) const {
    CHECK(false) << "it has given none";
    return absl::OkStatus();
  }
  // Fills the block with NaN in every layer: whoever reads it after it was freed sees so in the logits.
  virtual void Poison(BlockId id) const = 0;
  virtual void Copy(BlockId from, BlockId to) const = 0;  // all layers

  // Bytes of one block in all layers.
  static int64_t BlockBytes(const KvLayout& layout, int layers) { return 2 * layers * layout.block_bytes(); }

 protected:
  KvBytes(const KvLayout& layout, int layers, uint32_t block_count)
      : layout_(layout), layers_(layers), block_count_(block_count) {}
  // Where slab 2 * layer (K) or 2 * layer + 1 (V) has the block, in bytes.
  size_t Offset(int slab, BlockId id) const {
    return (static_cast<size_t>(slab) * block_count_ + Value(id)) *
           static_cast<size_t>(layout_.block_bytes());
  }

 private:
  const KvLayout layout_;
  const int layers_;
  const uint32_t block_count_;
};

}  // namespace lombard
