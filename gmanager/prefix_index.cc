#include "gmanager/prefix_index.h"

#include <algorithm>

namespace lombard {

PrefixIndex::PrefixIndex(const std::vector<uint32_t>& blocks) : caches_(blocks.size()) {
  for (size_t i = 0; i < blocks.size(); ++i) caches_[i].blocks = blocks[i];
}

uint32_t PrefixIndex::CachedBlocks(InstanceId instance, absl::Span<const uint64_t> names) const {
  const Cache& cache = caches_[Value(instance)];
  const auto missing = std::find_if(names.begin(), names.end(),
                                    [&](uint64_t name) { return !cache.where.contains(name); });
  return static_cast<uint32_t>(missing - names.begin());
}

void PrefixIndex::Use(InstanceId instance, absl::Span<const uint64_t> names) {
  Cache& cache = caches_[Value(instance)];
  if (names.size() > cache.blocks) return;
  for (auto name = names.rbegin(); name != names.rend(); ++name) {
    const auto [it, is_new] = cache.where.try_emplace(*name);
    if (is_new) {
      it->second = cache.used.insert(cache.used.begin(), *name);
    } else {
      cache.used.splice(cache.used.begin(), cache.used, it->second);
    }
  }
  while (cache.used.size() > cache.blocks) {
    cache.where.erase(cache.used.back());
    cache.used.pop_back();
  }
}

void PrefixIndex::Forget(InstanceId instance) {
  Cache& cache = caches_[Value(instance)];
  cache.used.clear();
  cache.where.clear();
}

}  // namespace lombard
