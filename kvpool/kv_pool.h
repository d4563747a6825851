// Ids and reference counts of the KV blocks of ONE worker. Knows no bytes, no tensors and no peers.
//
//   KvPool pool(1024);
//   ASSIGN_OR_RETURN(std::vector<BlockId> blocks, pool.Allocate(3));   // all or nothing
//   pool.Release(blocks[0]);  // at zero references the block is free
//
//
// Not thread-safe: belongs to the step thread. O(1) per block.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/ids.h"

namespace lombard {

// Keeps blocks that are worth keeping and that nobody needs now. The pool counts those as free and asks for
// them back when it runs short; whoever asked the pool never knows.
class BlockCache {
 public:
  virtual ~BlockCache() = default;
  virtual uint32_t unread_blocks() const = 0;  // what Evict could free, exactly
  virtual uint32_t Evict(uint32_t count) = 0;  // releases `count` blocks, or all it can; returns how many
};

class KvPool {
 public:
  // `on_free` is called for each block that becomes free (tests fill its bytes with NaN there); may be empty.
  explicit KvPool(uint32_t block_count, std::function<void(BlockId)> on_free = {});

  // At most one of each kind; it must end, or be taken away, before the pool does. Null: none. What is held
  // over for others goes before what the cache keeps.
  void set_cache(BlockCache* cache) { cache_ = cache; }
  void set_held_over(BlockCache* held_over) { held_over_ = held_over; }

  // kResourceExhausted (with both numbers) leaves the pool as it was. Lowest ids are handed out first after a
  // fresh start.
  absl::StatusOr<std::vector<BlockId>> Allocate(uint32_t count);
  void Retain(BlockId id);   // REQUIRES: allocated.
  void Release(BlockId id);  // REQUIRES: allocated.
  void ReleaseAll(absl::Span<const BlockId> ids);

  uint32_t total_count() const { return static_cast<uint32_t>(references_.size()); }
  // What Allocate can give, blocks of the caches included.
  uint32_t free_count() const {
    uint32_t count = static_cast<uint32_t>(free_.size());
    for (const BlockCache* cache : {held_over_, cache_})
      count += cache == nullptr ? 0 : cache->unread_blocks();
    return count;
  }
  uint32_t used_count() const { return total_count() - free_count(); }
  uint32_t used_max() const { return used_max_; }
  uint32_t references(BlockId id) const;

  // free + used == total, no id twice. O(total_count()); for tests and idle time.
  absl::Status CheckInvariants() const;

 private:
  std::vector<uint32_t> references_;
  std::vector<BlockId> free_;  // a stack: the block freed last is taken first, while its bytes are warm
  uint32_t used_max_ = 0;
  BlockCache *cache_ = nullptr, *held_over_ = nullptr;
  std::function<void(BlockId)> on_free_;
};

}  // namespace lombard
