// The creditor's arithmetic: attends other ranks' query rows to spans of KV that lie here, on this worker's
// CPUs or its GPU.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/ids.h"
#include "distattn/plan.h"
#include "kernels/cpu_context.h"
#include "kvpool/kv_storage.h"

namespace lombard {

// Rows at consecutive positions that all attend to one span.
struct SpanQuery {
  absl::Span<const BlockId> blocks;  // tokens fill from slot 0 of the first
  int rows = 0, first_query_position = 0;
  int first_position = 0, token_count = 0;  // of the span
  int window = 0;
};

// Both see all of the same full blocks, as readers of a prefix do: they can be one product.
bool ReadTheSame(const SpanQuery& a, const SpanQuery& b, int block_tokens);
// Indices of queries that are one product. In order of the first of each group; most groups have one.
std::vector<std::vector<size_t>> GroupReaders(absl::Span<const SpanQuery> queries, int block_tokens);

class SpanAttention {
 public:
  virtual ~SpanAttention() = default;
  // q: the rows of all queries one after the other, [rows, q_heads, head_dim] in the KV dtype, any alignment.
  // Fills states: per query acc [rows, q_heads, head_dim], max [rows, q_heads], sum [rows, q_heads]
  // (distattn/wire.h). One caller at a time; returns when all is there. Errors are the device's.
  virtual absl::Status Attend(int layer, absl::Span<const SpanQuery> queries, absl::string_view q,
                              absl::Span<float> states) = 0;
  // Of the last Attend.
  struct Counts {
    uint64_t keys = 0;      // of the spans, those of a group once
    uint64_t products = 0;  // one for each group
  };
  virtual Counts counts() const = 0;
};

class CpuSpanAttention final : public SpanAttention {
 public:
  // `storage` is not owned and outlives this, as does the context's pool.
  CpuSpanAttention(const AttentionShape& shape, const CpuContext& context, const KvStorage* storage)
      : shape_(shape), context_(context), storage_(storage) {}
  absl::Status Attend(int layer, absl::Span<const SpanQuery> queries, absl::string_view q,
                      absl::Span<float> states) override;
  Counts counts() const override { return counts_; }

 private:
  const AttentionShape shape_;
  const CpuContext context_;
  const KvStorage* const storage_;
  Counts counts_;
};

}  // namespace lombard
