#include "kvpool/kv_pool.h"

#include <algorithm>

#include "base/check.h"
#include "base/status.h"

namespace lombard {

KvPool::KvPool(uint32_t block_count, std::function<void(BlockId)> on_free)
    : references_(block_count, 0), on_free_(std::move(on_free)) {
  free_.reserve(block_count);
  for (uint32_t i = block_count; i > 0; --i) free_.push_back(BlockId{i - 1});
}

absl::StatusOr<std::vector<BlockId>> KvPool::Allocate(uint32_t count) {
  if (count > free_count()) {
    return absl::ResourceExhaustedError(absl::StrCat("asked for ", count, " KV blocks, ", free_count(),
                                                     " of ", references_.size(), " are free"));
  }
  for (BlockCache* cache : {held_over_, cache_}) {
    if (count > free_.size() && cache != nullptr) cache->Evict(count - static_cast<uint32_t>(free_.size()));
  }
  CHECK_LE(count, free_.size()) << "the cache keeps blocks that it offered";
  std::vector<BlockId> ids(free_.rbegin(), free_.rbegin() + count);
  free_.resize(free_.size() - count);
  for (BlockId id : ids) references_[Value(id)] = 1;
  used_max_ = std::max(used_max_, used_count());
  return ids;
}

void KvPool::Retain(BlockId id) {
  CHECK_LT(Value(id), references_.size());
  CHECK_GT(references_[Value(id)], 0u) << "retain of free block " << Value(id);
  ++references_[Value(id)];
  used_max_ = std::max(used_max_, used_count());  // a reader may just have taken it from the cache
}

void KvPool::Release(BlockId id) {
  CHECK_LT(Value(id), references_.size());
  CHECK_GT(references_[Value(id)], 0u) << "release of free block " << Value(id);
  if (--references_[Value(id)] > 0) return;
  free_.push_back(id);
  if (on_free_) on_free_(id);
}

void KvPool::ReleaseAll(absl::Span<const BlockId> ids) {
  for (BlockId id : ids) Release(id);
}

uint32_t KvPool::references(BlockId id) const {
  CHECK_LT(Value(id), references_.size());
  return references_[Value(id)];
}

absl::Status KvPool::CheckInvariants() const {
  std::vector<bool> is_free(references_.size(), false);
  for (BlockId id : free_) {
    if (Value(id) >= references_.size())
      return absl::InternalError(absl::StrCat("free list holds foreign block ", Value(id)));
    if (is_free[Value(id)]) return absl::InternalError(absl::StrCat("block ", Value(id), " is free twice"));
    is_free[Value(id)] = true;
  }
  for (uint32_t i = 0; i < references_.size(); ++i) {
    if (is_free[i] != (references_[i] == 0)) {
      return absl::InternalError(absl::StrCat("block ", i, " has ", references_[i], " references and is ",
                                              is_free[i] ? "in" : "not in", " the free list"));
    }
  }
  return absl::OkStatus();
}

}  // namespace lombard
