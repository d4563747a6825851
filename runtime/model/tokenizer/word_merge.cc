#include "runtime/model/tokenizer/word_merge.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <queue>
#include <utility>

namespace lombard::tokenization {
namespace {

constexpr uint32_t kNoRank = std::numeric_limits<uint32_t>::max();
constexpr Merge kNoMerge = {kNoRank, -1};

Merge Lookup(const MergeTable& merges, int32_t left, int32_t right) {
  const Merge* merge = merges.Find(left, right);
  return merge == nullptr ? kNoMerge : *merge;
}

struct Symbol {
  int32_t id;  // -1 once merged into the symbol before it.
  uint32_t previous, next;
  Merge merge;  // With the next symbol; kNoMerge where there is none.
};
constexpr uint32_t kEnd = std::numeric_limits<uint32_t>::max();

}  // namespace

void MergeWordByScan(const MergeTable& merges, std::vector<int32_t>* ids) {
  std::vector<int32_t>& word = *ids;
  size_t count = word.size();
  if (count < 2) return;
  std::vector<Merge> pairs(count - 1);  // pairs[i] is the merge of word[i] and word[i + 1].
  for (size_t i = 0; i + 1 < count; ++i) pairs[i] = Lookup(merges, word[i], word[i + 1]);
  while (count > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < count; ++i) {
      if (pairs[i].rank < pairs[best].rank) best = i;
    }
    if (pairs[best].rank == kNoRank) break;
    word[best] = pairs[best].id;
    std::copy(word.begin() + best + 2, word.begin() + count, word.begin() + best + 1);
    if (best + 2 < count)
      std::copy(pairs.begin() + best + 1, pairs.begin() + count - 1, pairs.begin() + best);
    --count;
    if (best > 0) pairs[best - 1] = Lookup(merges, word[best - 1], word[best]);
    if (best + 1 < count) pairs[best] = Lookup(merges, word[best], word[best + 1]);
  }
  word.resize(count);
}

void MergeWordByQueue(const MergeTable& merges, std::vector<int32_t>* ids) {
  const uint32_t count = static_cast<uint32_t>(ids->size());
  std::vector<Symbol> symbols(count);
  // Queued pairs as rank and place in one number, so that the smallest is the one to merge. Stale once the
  // pair at that place has another rank, which any change of its symbols gives it: a rank belongs to one
  // pair.
  std::vector<uint64_t> first;
  first.reserve(count);
  const auto key_at = [&](uint32_t at) { return static_cast<uint64_t>(symbols[at].merge.rank) << 32 | at; };
  for (uint32_t i = 0; i < count; ++i) {
    const Merge merge = i + 1 < count ? Lookup(merges, (*ids)[i], (*ids)[i + 1]) : kNoMerge;
    symbols[i] = {(*ids)[i], i == 0 ? kEnd : i - 1, i + 1 == count ? kEnd : i + 1, merge};
    if (merge.rank != kNoRank) first.push_back(key_at(i));
  }
  std::priority_queue<uint64_t, std::vector<uint64_t>, std::greater<uint64_t>> queue({}, std::move(first));
  const auto update = [&](uint32_t at) {
    Symbol& symbol = symbols[at];
    symbol.merge = symbol.next == kEnd ? kNoMerge : Lookup(merges, symbol.id, symbols[symbol.next].id);
    if (symbol.merge.rank != kNoRank) queue.push(key_at(at));
  };
  while (!queue.empty()) {
    const uint64_t top = queue.top();
    queue.pop();
    const uint32_t at = static_cast<uint32_t>(top);
    Symbol& left = symbols[at];
    if (left.merge.rank != top >> 32) continue;
    Symbol& right = symbols[left.next];
    left.id = left.merge.id;
    left.next = right.next;
    right.id = -1;
    right.merge = kNoMerge;
    if (left.next != kEnd) symbols[left.next].previous = at;
    update(at);
    if (left.previous != kEnd) update(left.previous);
  }
  ids->clear();
  for (const Symbol& symbol : symbols) {
    if (symbol.id >= 0) ids->push_back(symbol.id);
  }
}

void MergeWord(const MergeTable& merges, std::vector<int32_t>* ids) {
  if (ids->size() <= kScanSymbolsMax) {
    MergeWordByScan(merges, ids);
  } else {
    MergeWordByQueue(merges, ids);
  }
}

}  // namespace lombard::tokenization
