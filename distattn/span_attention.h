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

// Indices of queries that are one product: those that see all of the same full blocks, as readers of a prefix
// do. In order of the first of each group; most groups have one.
std::vector<std::vector<size_t>> GroupReaders(absl::Span<const SpanQuery> queries, int block_tokens);

class SpanAttention {
 public:
  virtual ~SpanAttention() = default;
  // q: the rows of all queries one after the other, [rows, q_heads, head_dim] in the KV dtype, any alignment.
  // Fills states: per query acc [rows, q_heads, head_dim], max [rows, q_heads], sum [rows, q_heads]
  // (distattn/wire.h). One caller at a time; returns when all is there. Errors are the device's.
  virtual absl::Status Attend(int layer, absl::Span<const SpanQuery> queries, absl::string_view q,
                              absl::Span<float> states) = 0;
  // By the last Attend: keys of the spans, those of a group once. 0 where nobody counts.
  virtual uint64_t keys_read() const { return 0; }
};

class CpuSpanAttention final : public SpanAttention {
 public:
  // `storage` is not owned and outlives this, as does the context's pool.
  CpuSpanAttention(const AttentionShape& shape, const CpuContext& context, const KvStorage* storage)
      : shape_(shape), context_(context), storage_(storage) {}
  absl::Status Attend(int layer, absl::Span<const SpanQuery> queries, absl::string_view q,
                      absl::Span<float> states) override;
  uint64_t keys_read() const override { return keys_read_; }

 private:
  const AttentionShape shape_;
  const CpuContext context_;
  const KvStorage* const storage_;
  uint64_t keys_read_ = 0;
};

}  // namespace lombard
