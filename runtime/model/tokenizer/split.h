// Cutting pieces at delimiters: the five behaviours that tokenizer.json names.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/model/tokenizer/json_field.h"
#include "runtime/model/tokenizer/pre_tokenizer.h"

namespace lombard::tokenization {

enum class SplitBehavior : uint8_t { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };
absl::StatusOr<SplitBehavior> ParseSplitBehavior(const JsonField& json);

// Reports the delimiters of a text, left to right, not overlapping.
using FindDelimiters =
    absl::FunctionRef<void(absl::string_view text, absl::FunctionRef<void(size_t, size_t)> found)>;

// Cuts every piece of `list`. With `invert`, what lies between the delimiters is the delimiter.
void SplitPieces(SplitBehavior behavior, bool invert, FindDelimiters find, PieceList* list);

}  // namespace lombard::tokenization
