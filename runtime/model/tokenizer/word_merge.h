// The merge loop of byte-pair encoding over one word: among all adjacent pairs that have a merge, the one of
// lowest rank (the leftmost of equals) is joined, until none is left. Source: Sennrich, Haddow, Birch 2016,
// section 3.2.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace lombard::tokenization {

struct Merge {
  uint32_t rank;
  int32_t id;  // Of the joined token.
};

// Merges by pair of token ids.
class MergeTable {
 public:
  void Reserve(size_t count) { table_.reserve(count); }
  void Set(int32_t left, int32_t right, Merge merge) { table_[Key(left, right)] = merge; }
  const Merge* Find(int32_t left, int32_t right) const {
    const auto found = table_.find(Key(left, right));
    return found == table_.end() ? nullptr : &found->second;
  }

 private:
  static uint64_t Key(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  absl::flat_hash_map<uint64_t, Merge> table_;
};

// Merges `ids` in place. Takes the scan below kScanSymbolsMax symbols and the queue above.
void MergeWord(const MergeTable& merges, std::vector<int32_t>* ids);

// The two ways, which give the same result. The scan looks for the lowest rank anew after each merge: O(n^2),
// without allocation beyond `ids`. The queue keeps candidate pairs in a heap: O(n log n).
constexpr size_t kScanSymbolsMax = 48;  // Guess: about where the heap starts to win.
void MergeWordByScan(const MergeTable& merges, std::vector<int32_t>* ids);
void MergeWordByQueue(const MergeTable& merges, std::vector<int32_t>* ids);

}  // namespace lombard::tokenization
