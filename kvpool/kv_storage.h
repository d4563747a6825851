// The bytes of a worker's KV blocks: per layer a slab for K and one for V, each [blocks, kv_heads,
// block_tokens, head_dim].
//
// Pages are taken from the system when first written, so an unused budget costs no memory. Pointers stay
// valid for the life of the storage. Thread rule: disjoint blocks may be read and written by different
// threads; who may touch a block is decided by KvPool and the ledger, not here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "base/ids.h"
#include "kernels/attention.h"

namespace lombard {

class KvStorage {
 public:
  // kResourceExhausted: the address range cannot be had (value and limit in the message).
  static absl::StatusOr<std::unique_ptr<KvStorage>> Create(const KvLayout& layout, int layers,
                                                           uint32_t block_count);
  ~KvStorage();
  KvStorage(const KvStorage&) = delete;
  KvStorage& operator=(const KvStorage&) = delete;

  const KvLayout& layout() const { return layout_; }
  int layers() const { return layers_; }
  uint32_t block_count() const { return block_count_; }
  // One layer's K (V) of a block: layout().block_bytes() bytes.
  std::byte* k(int layer, BlockId id) const { return At(2 * layer, id); }
  std::byte* v(int layer, BlockId id) const { return At(2 * layer + 1, id); }
  // Fills the block with NaN in every layer: whoever reads it after it was freed sees so in the logits.
  void Poison(BlockId id) const;
  void Copy(BlockId from, BlockId to) const;  // all layers

  // Bytes of one block in all layers.
  static int64_t BlockBytes(const KvLayout& layout, int layers) { return 2 * layers * layout.block_bytes(); }

 private:
  KvStorage(const KvLayout& layout, int layers, uint32_t block_count, std::byte* base, size_t bytes)
      : layout_(layout), layers_(layers), block_count_(block_count), base_(base), bytes_(bytes) {}
  std::byte* At(int slab, BlockId id) const {
    return base_ + (static_cast<size_t>(slab) * block_count_ + Value(id)) *
                       static_cast<size_t>(layout_.block_bytes());
  }

  const KvLayout layout_;
  const int layers_;
  const uint32_t block_count_;
  std::byte* const base_;
  const size_t bytes_;
};

}  // namespace lombard
