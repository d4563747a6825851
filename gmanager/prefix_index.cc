#include "gmanager/prefix_index.h"

#include <algorithm>

namespace lombard {

PrefixIndex::PrefixIndex(const std::vector<uint32_t>& blocks) : caches_(blocks.size()) {
  for (size_t i = 0; i < blocks.size(); ++i) caches_[i].blocks = blocks[i];
}

uint32_t PrefixIndex::LeadingBlocks(InstanceId instance, absl::Span<const uint64_t> names, bool own) const {
  const Cache& cache = caches_[Value(instance)];
  const auto missing = std::find_if(names.begin(), names.end(), [&](uint64_t name) {
    const auto entry = cache.entries.find(name);
    return entry == cache.entries.end() || (own && !entry->second.own);
  });
  return static_cast<uint32_t>(missing - names.begin());
}

void PrefixIndex::Use(InstanceId instance, absl::Span<const uint64_t> names, uint32_t elsewhere) {
  Cache& cache = caches_[Value(instance)];
  if (names.size() > cache.blocks) return;
  for (size_t i = names.size(); i-- > 0;) {
    const auto [it, is_new] = cache.entries.try_emplace(names[i]);
    if (is_new) {
      it->second.place = cache.used.insert(cache.used.begin(), names[i]);
    } else {
      cache.used.splice(cache.used.begin(), cache.used, it->second.place);
    }
    it->second.own |= i >= elsewhere;
  }
  while (cache.used.size() > cache.blocks) {
    cache.entries.erase(cache.used.back());
    cache.used.pop_back();
  }
}

void PrefixIndex::Forget(InstanceId instance) {
  Cache& cache = caches_[Value(instance)];
  cache.used.clear();
  cache.entries.clear();
}

}  // namespace lombard
