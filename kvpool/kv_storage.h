// KV blocks in host memory: per layer a slab for K and one for V, each [blocks, kv_heads, block_tokens,
// head_dim].
//
// Pages are taken from the system when first written, so an unused budget costs no memory. Pointers stay
// valid for the life of the storage.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "kvpool/kv_bytes.h"

namespace lombard {

class KvStorage final : public KvBytes {
 public:
  // kResourceExhausted: the address range cannot be had (value and limit in the message).
  static absl::StatusOr<std::unique_ptr<KvStorage>> Create(const KvLayout& layout, int layers,
                                                           uint32_t block_count);
  ~KvStorage() override;

  // One layer's K (V) of a block: layout().block_bytes() bytes.
  std::byte* k(int layer, BlockId id) const { return base_ + Offset(2 * layer, id); }
  std::byte* v(int layer, BlockId id) const { return base_ + Offset(2 * layer + 1, id); }

  absl::Status AppendTo(int layer, absl::Span<const BlockId> blocks, std::string* bytes) const override;
  absl::Status Write(int layer, absl::Span<const BlockId> blocks, absl::string_view bytes) const override;
  void Poison(BlockId id) const override;
  void Copy(BlockId from, BlockId to) const override;

 private:
  KvStorage(const KvLayout& layout, int layers, uint32_t block_count, std::byte* base, size_t bytes)
      : KvBytes(layout, layers, block_count), base_(base), bytes_(bytes) {}

  std::byte* const base_;
  const size_t bytes_;
};

}  // namespace lombard
