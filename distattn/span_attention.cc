#include "distattn/span_attention.h"

#include <vector>

#include "kernels/attention.h"
#include "kernels/elementwise.h"

namespace lombard {

absl::Status CpuSpanAttention::Attend(int layer, absl::Span<const SpanQuery> queries, absl::string_view q,
                                      absl::Span<float> states) {
  const KvLayout& layout = storage_->layout();
  const int q_heads = shape_.q_heads;
  const size_t row_floats = static_cast<size_t>(q_heads) * layout.head_dim;
  std::vector<float> rows_q(q.size() / DTypeBytes(layout.dtype));
  ConvertToF32({context_.isa, nullptr}, layout.dtype, q.data(), rows_q.data(),
               static_cast<int64_t>(rows_q.size()));

  std::vector<std::vector<const void*>> k_blocks, v_blocks;
  std::vector<int32_t> positions;
  positions.reserve(rows_q.size() / row_floats);
  for (const SpanQuery& query : queries) {
    auto& k = k_blocks.emplace_back();
    auto& v = v_blocks.emplace_back();
    for (const BlockId block : query.blocks) {
      k.push_back(storage_->k(layer, block));
      v.push_back(storage_->v(layer, block));
    }
    for (int row = 0; row < query.rows; ++row) positions.push_back(query.first_query_position + row);
  }
  std::vector<AttentionArgs> args;
  size_t row = 0;
  for (size_t i = 0; i < queries.size(); ++i) {
    const SpanQuery& query = queries[i];
    float* const out = states.data() + row * (row_floats + 2 * q_heads);
    args.push_back({.q = rows_q.data() + row * row_floats,
                    .q_positions = positions.data() + row,
                    .rows = query.rows,
                    .q_heads = q_heads,
                    .layout = layout,
                    .k_blocks = k_blocks[i].data(),
                    .v_blocks = v_blocks[i].data(),
                    .token_count = query.token_count,
                    .first_position = query.first_position,
                    .window = query.window,
                    .scale = shape_.scale,
                    .acc = out,
                    .max = out + query.rows * row_floats,
                    .sum = out + query.rows * (row_floats + q_heads)});
    row += query.rows;
  }
  PartialAttention(context_, args);
  return absl::OkStatus();
}

}  // namespace lombard
