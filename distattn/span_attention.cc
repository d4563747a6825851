#include "distattn/span_attention.h"

#include <algorithm>
#include <map>
#include <utility>

#include "kernels/attention.h"
#include "kernels/elementwise.h"

namespace lombard {
namespace {

bool SeesAll(const SpanQuery& query, int block_tokens) {
  return query.window == 0 && query.token_count > 0 && query.token_count % block_tokens == 0 &&
         query.first_query_position >= int64_t{query.first_position} + query.token_count;
}

}  // namespace

bool ReadTheSame(const SpanQuery& a, const SpanQuery& b, int block_tokens) {
  return SeesAll(a, block_tokens) && SeesAll(b, block_tokens) && a.first_position == b.first_position &&
         a.blocks == b.blocks;
}

std::vector<std::vector<size_t>> GroupReaders(absl::Span<const SpanQuery> queries, int block_tokens) {
  std::vector<std::vector<size_t>> groups;
  std::map<std::pair<BlockId, BlockId>, size_t> group_of;  // by first and last block
  for (size_t i = 0; i < queries.size(); ++i) {
    const SpanQuery& query = queries[i];
    size_t group = groups.size();
    if (SeesAll(query, block_tokens)) {
      const auto [known, is_new] = group_of.try_emplace({query.blocks.front(), query.blocks.back()}, group);
      if (!is_new && ReadTheSame(query, queries[groups[known->second][0]], block_tokens))
        group = known->second;
    }
    if (group == groups.size()) groups.emplace_back();
    groups[group].push_back(i);
  }
  return groups;
}

absl::Status CpuSpanAttention::Attend(int layer, absl::Span<const SpanQuery> queries, absl::string_view q,
                                      absl::Span<float> states) {
  const KvLayout& layout = storage_->layout();
  const int q_heads = shape_.q_heads;
  const size_t row_floats = static_cast<size_t>(q_heads) * layout.head_dim;
  const size_t state_floats = row_floats + 2 * q_heads, row_bytes = row_floats * DTypeBytes(layout.dtype);
  std::vector<size_t> first_row(queries.size() + 1, 0);  // of q and states
  for (size_t i = 0; i < queries.size(); ++i) first_row[i + 1] = first_row[i] + queries[i].rows;

  // The rows of a group lie one behind the other, in place of their order in q.
  const std::vector<std::vector<size_t>> groups = GroupReaders(queries, layout.block_tokens);
  std::vector<float> rows_q(first_row.back() * row_floats), stacked(first_row.back() * state_floats);
  std::vector<int32_t> positions(first_row.back());
  std::vector<std::vector<const void*>> lists;
  lists.reserve(2 * groups.size());
  std::vector<AttentionArgs> args;
  size_t row = 0;
  counts_ = {.keys = 0, .products = groups.size()};
  for (const std::vector<size_t>& group : groups) {
    const SpanQuery& one = queries[group[0]];
    auto& k = lists.emplace_back();
    auto& v = lists.emplace_back();
    for (const BlockId block : one.blocks) {
      k.push_back(storage_->k(layer, block));
      v.push_back(storage_->v(layer, block));
    }
    const size_t first = row;
    for (const size_t i : group) {
      ConvertToF32({context_.isa, nullptr}, layout.dtype, q.data() + first_row[i] * row_bytes,
                   rows_q.data() + row * row_floats, static_cast<int64_t>(queries[i].rows * row_floats));
      for (int r = 0; r < queries[i].rows; ++r, ++row) {
        // Kernels want positions that do not decrease; any behind the span will do.
        positions[row] =
            group.size() > 1 ? one.first_position + one.token_count : queries[i].first_query_position + r;
      }
    }
    const size_t rows = row - first;
    float* const out = group.size() > 1 ? stacked.data() + first * state_floats
                                        : states.data() + first_row[group[0]] * state_floats;
    counts_.keys += static_cast<uint64_t>(one.token_count);
    args.push_back({.q = rows_q.data() + first * row_floats,
                    .q_positions = positions.data() + first,
                    .rows = static_cast<int>(rows),
                    .q_heads = q_heads,
                    .layout = layout,
                    .k_blocks = k.data(),
                    .v_blocks = v.data(),
                    .token_count = one.token_count,
                    .first_position = one.first_position,
                    .window = one.window,
                    .scale = shape_.scale,
                    .acc = out,
                    .max = out + rows * row_floats,
                    .sum = out + rows * (row_floats + q_heads)});
  }
  PartialAttention(context_, args);

  for (size_t g = 0; g < groups.size(); ++g) {
    if (groups[g].size() == 1) continue;
    size_t at = 0;  // row of the group
    for (const size_t i : groups[g]) {
      const size_t rows = queries[i].rows;
      float* to = states.data() + first_row[i] * state_floats;
      to = std::copy_n(args[g].acc + at * row_floats, rows * row_floats, to);
      to = std::copy_n(args[g].max + at * q_heads, rows * q_heads, to);
      std::copy_n(args[g].sum + at * q_heads, rows * q_heads, to);
      at += rows;
    }
  }
  return absl::OkStatus();
}

}  // namespace lombard
