// Which prefixes the instances' caches have, as far as the front door knows it: from what it sent where. A
// model of every instance's cache of full blocks under least recently used eviction, by the blocks' names
// (kvpool/block_hash.h; a salt's names are no other salt's). It may be wrong, because an instance evicts
// earlier or computes late; then a request is computed where it could have been read, and nothing else.
//
//   PrefixIndex index({1024, 512});                 // blocks of the instances' pools
//   index.CachedBlocks(InstanceId{1}, names);       // of a prompt: the leading ones that it has
//   index.Use(InstanceId{1}, names);                // it gets the prompt, so it has them all, soon
//
// Memory: at most as many names per instance as its pool has blocks. O(names) per call. A plain value: no
// clock, no randomness.
#pragma once

#include <cstdint>
#include <list>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"
#include "base/ids.h"

namespace lombard {

class PrefixIndex {
 public:
  explicit PrefixIndex(const std::vector<uint32_t>& blocks);  // by instance

  uint32_t CachedBlocks(InstanceId instance, absl::Span<const uint64_t> names) const {
    return LeadingBlocks(instance, names, /*own=*/false);
  }
  // The same without those that it reads, as far as we know, at another instance.
  uint32_t OwnBlocks(InstanceId instance, absl::Span<const uint64_t> names) const {
    return LeadingBlocks(instance, names, /*own=*/true);
  }
  // `names`: of a sequence's blocks from token 0 on. One that is larger than the pool borrows and leaves
  // nothing. The first `elsewhere` of them, where they are new to it, it may read at another instance.
  void Use(InstanceId instance, absl::Span<const uint64_t> names, uint32_t elsewhere = 0);
  void Resize(InstanceId instance, uint32_t blocks) { caches_[Value(instance)].blocks = blocks; }
  void Forget(InstanceId instance);  // its process is gone, and its cache with it
  size_t size(InstanceId instance) const { return caches_[Value(instance)].used.size(); }

 private:
  // Used last in front. A block is never used later than one before it in its sequence, so what is dropped
  // from the end is the tail of a sequence.
  struct Cache {
    uint32_t blocks = 0;
    std::list<uint64_t> used;
    struct Entry {
      std::list<uint64_t>::iterator place;
      bool own = false;
    };
    absl::flat_hash_map<uint64_t, Entry> entries;
  };
  uint32_t LeadingBlocks(InstanceId instance, absl::Span<const uint64_t> names, bool own) const;
  std::vector<Cache> caches_;
};

}  // namespace lombard
