// What is known about some query rows after seeing SOME of the keys, and how two such states become one.
//
//   acc [rows, head_dim]  sum of exp(s - max) * v over the seen keys; fp32, row-major
//   max [rows]            largest score s = scale * (q . k) seen; -inf before the first key
//   sum [rows]            sum of exp(s - max); 0 before the first key
//
// A row is one query token of one query head. Natural exponent. Source: online softmax (Milakov, Gimelshein
// 2018). Attention over any set of keys is the merge of the states of its parts, in whatever place each was
// computed. Three fields and not (acc / sum, log-sum-exp): with an fp32 log-sum-exp the error of the merge
// grows with the size of the scores, here it does not.
#pragma once

#include "absl/types/span.h"

namespace lombard {

// A view; the caller owns the memory.
struct AttentionState {
  absl::Span<float> acc, max, sum;
};

void ResetState(AttentionState state);  // to the identity of MergeInto
// dst becomes the state of both key sets. REQUIRES: disjoint sets, equal shapes. Never allocates. Commutative
// and associative up to rounding: any merge tree is right, one fixed tree gives the same bits. Callers merge
// in the order of position.
void MergeInto(const AttentionState& src, AttentionState dst);
// out [rows, head_dim] = acc / sum; may be acc. A row that saw no key becomes 0, not NaN.
void Normalize(const AttentionState& state, absl::Span<float> out);

}  // namespace lombard
