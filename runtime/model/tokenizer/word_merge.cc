#include "runtime/model/tokenizer/word_merge.h"

#include <algorithm>
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

// A pair that could be merged when it was queued; stale once either symbol has changed.
struct Candidate {
  uint32_t rank;
  uint32_t at;
  int32_t left, right, joined;
  // Of a max-heap: lower rank first, then further left.
  friend bool operator<(const Candidate& a, const Candidate& b) {
    return a.rank != b.rank ? a.rank > b.rank : a.at > b.at;
  }
};

struct Symbol {
  int32_t id;  // -1 once merged into the symbol before it.
  uint32_t previous, next;
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
  for (uint32_t i = 0; i < count; ++i) {
    symbols[i] = {(*ids)[i], i == 0 ? kEnd : i - 1, i + 1 == count ? kEnd : i + 1};
  }
  const auto candidate_at = [&](uint32_t at, Candidate* out) {
    const int32_t left = symbols[at].id, right = symbols[symbols[at].next].id;
    const Merge merge = Lookup(merges, left, right);
    *out = {merge.rank, at, left, right, merge.id};
    return merge.rank != kNoRank;
  };
  std::vector<Candidate> first;
  Candidate candidate;
  for (uint32_t i = 0; i + 1 < count; ++i) {
    if (candidate_at(i, &candidate)) first.push_back(candidate);
  }
  std::priority_queue<Candidate> queue(std::less<Candidate>(), std::move(first));
  while (!queue.empty()) {
    const Candidate top = queue.top();
    queue.pop();
    Symbol& left = symbols[top.at];
    if (left.id != top.left || left.next == kEnd || symbols[left.next].id != top.right) continue;
    Symbol& right = symbols[left.next];
    left.id = top.joined;
    left.next = right.next;
    right.id = -1;
    if (left.next != kEnd) {
      symbols[left.next].previous = top.at;
      if (candidate_at(top.at, &candidate)) queue.push(candidate);
    }
    if (left.previous != kEnd && candidate_at(left.previous, &candidate)) queue.push(candidate);
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
