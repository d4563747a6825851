#include "runtime/model/tokenizer/split.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace lombard::tokenization {
namespace {

struct Part {
  size_t begin;
  size_t end;
  bool delimiter;
};

// Applies the behaviour to the parts of one piece, in place; parts still marked as delimiters afterwards are
// dropped. The merging behaviours merge a delimiter only when the part before it (in reading direction) was
// none, so in a run of delimiters only the first one is merged.
void Arrange(SplitBehavior behavior, std::vector<Part>* parts) {
  if (behavior == SplitBehavior::kRemoved) return;
  std::vector<Part>& p = *parts;
  const bool backwards = behavior == SplitBehavior::kMergedWithNext;
  if (backwards) std::reverse(p.begin(), p.end());
  size_t kept = 0;
  bool previous = false;
  for (size_t i = 0; i < p.size(); ++i) {
    const bool delimiter = p[i].delimiter;
    const bool join = behavior == SplitBehavior::kContiguous ? delimiter == previous
                      : behavior == SplitBehavior::kIsolated ? false
                                                             : delimiter && !previous;
    if (join && kept > 0) {
      p[kept - 1].begin = std::min(p[kept - 1].begin, p[i].begin);
      p[kept - 1].end = std::max(p[kept - 1].end, p[i].end);
    } else {
      p[kept++] = {p[i].begin, p[i].end, false};
    }
    previous = delimiter;
  }
  p.resize(kept);
  if (backwards) std::reverse(p.begin(), p.end());
}

}  // namespace

absl::StatusOr<SplitBehavior> ParseSplitBehavior(const JsonField& json) {
  ASSIGN_OR_RETURN(const absl::string_view name, json.AsString());
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  return json.Error(absl::StrCat("unknown behavior \"", name, "\""));
}

void SplitPieces(SplitBehavior behavior, bool invert, FindDelimiters find, PieceList* list) {
  std::vector<PieceList::Piece> pieces;
  std::vector<Part> parts;
  for (const PieceList::Piece& piece : list->pieces) {
    parts.clear();
    const absl::string_view text = list->View(piece);
    size_t from = 0;
    find(text, [&](size_t begin, size_t end) {
      if (begin > from) parts.push_back({from, begin, invert});
      parts.push_back({begin, end, !invert});
      from = end;
    });
    if (from < text.size()) parts.push_back({from, text.size(), invert});
    Arrange(behavior, &parts);
    for (const Part& part : parts) {
      if (part.delimiter || part.begin == part.end) continue;
      pieces.push_back({piece.begin + part.begin, piece.begin + part.end, piece.at_start && part.begin == 0});
    }
  }
  list->pieces = std::move(pieces);
}

}  // namespace lombard::tokenization
