#include "rmanager/held_over.h"

#include <algorithm>

namespace lombard {

void HeldOver::Keep(RequestId request, std::vector<Block> blocks, absl::Time until) {
  if (!blocks.empty()) spans_.push_back({request, std::move(blocks), until});
}

std::vector<HeldOver::Block> HeldOver::Adopt(RequestId request, absl::Span<const uint64_t> names,
                                             size_t limit) {
  const bool by_place = bug_ == PlantedBug::kAdoptByPlace;
  std::vector<Block> all, adopted;
  std::erase_if(spans_, [&](const Span& span) {
    if (span.request != request && !by_place) return false;
    all.insert(all.end(), span.blocks.begin(), span.blocks.end());
    return bug_ != PlantedBug::kAdoptTwice;
  });
  std::stable_sort(all.begin(), all.end(),
                   [](const Block& a, const Block& b) { return a.content.block < b.content.block; });
  for (const Block& block : all) {
    const uint32_t at = block.content.block;
    const bool wanted = at < names.size() && (names[at] == block.content.name || by_place) &&
                        adopted.size() < limit && (adopted.empty() || adopted.back().content.block != at);
    if (wanted) {
      adopted.push_back(block);
    } else if (bug_ != PlantedBug::kAdoptTwice) {
      pool_->Release(block.id);
    }
  }
  return adopted;
}

void HeldOver::Tick(absl::Time now) {
  std::erase_if(spans_, [&](const Span& span) {
    if (now < span.until) return false;
    for (const Block& block : span.blocks) pool_->Release(block.id);
    return true;
  });
}

absl::Time HeldOver::NextDeadline() const {
  absl::Time next = absl::InfiniteFuture();
  for (const Span& span : spans_) next = std::min(next, span.until);
  return next;
}

uint32_t HeldOver::unread_blocks() const {
  size_t count = 0;
  for (const Span& span : spans_) count += span.blocks.size();
  return static_cast<uint32_t>(count);
}

// The oldest span first, its last tokens first: what lies before them is worth more.
uint32_t HeldOver::Evict(uint32_t count) {
  uint32_t evicted = 0;
  while (evicted < count && !spans_.empty()) {
    std::vector<Block>& blocks = spans_.front().blocks;
    pool_->Release(blocks.back().id);
    blocks.pop_back();
    ++evicted;
    if (blocks.empty()) spans_.erase(spans_.begin());
  }
  return evicted;
}

std::vector<BlockId> HeldOver::blocks() const {
  std::vector<BlockId> ids;
  for (const Span& span : spans_) {
    for (const Block& block : span.blocks) ids.push_back(block.id);
  }
  return ids;
}

}  // namespace lombard
