#include "distattn/gpu_span_plan.h"

#include "base/device/gpu_status.h"
#include "base/status.h"
#include "kernels/cuda/merge_states.h"
#include "kernels/cuda/partial_attention.h"

namespace lombard {

void GpuSpanPlan::Plan(absl::Span<const SpanQuery> queries, GpuTables* tables) {
  const KvLayout& layout = storage_->layout();
  std::vector<AttentionItem> items;
  std::vector<int32_t> block_table, positions;
  std::vector<int32_t> first_row;  // of each query
  for (const SpanQuery& query : queries) {
    first_row.push_back(static_cast<int32_t>(positions.size()));
    for (int row = 0; row < query.rows; ++row) positions.push_back(query.first_query_position + row);
  }
  counts_ = {};
  for (const std::vector<size_t>& group : GroupReaders(queries, layout.block_tokens)) {
    const SpanQuery& one = queries[group[0]];
    AttentionItem& item =
        items.emplace_back(AttentionItem{.first_block = static_cast<int32_t>(block_table.size()),
                                         .token_count = one.token_count,
                                         .first_position = one.first_position,
                                         .shared = group.size() > 1});
    for (const BlockId block : one.blocks) block_table.push_back(static_cast<int32_t>(Value(block)));
    for (const size_t i : group) {
      for (int row = 0; row < queries[i].rows; ++row) item.rows.push_back(first_row[i] + row);
    }
    counts_.keys += static_cast<uint64_t>(one.token_count);
    ++counts_.products;
  }
  rows_ = static_cast<int>(positions.size());
  schedule_ = PlanAttention(layout, shape_.q_heads, positions, items);
  tables_ = tables;
  work_ = tables->Add<AttentionWork>(schedule_.work);
  work_rows_ = tables->Add<int32_t>(schedule_.rows);
  merge_begin_ = tables->Add<int32_t>(schedule_.merge_begin);
  merge_states_ = tables->Add<int32_t>(schedule_.merge_states);
  block_table_ = tables->Add<int32_t>(block_table);
  positions_ = tables->Add<int32_t>(positions);
}

uint64_t GpuSpanPlan::row_bytes() const {
  return static_cast<uint64_t>(shape_.q_heads) * (storage_->layout().head_dim + 2) * sizeof(float);
}
uint64_t GpuSpanPlan::state_bytes() const { return rows_ * row_bytes(); }
uint64_t GpuSpanPlan::query_bytes() const {
  const KvLayout& layout = storage_->layout();
  return static_cast<uint64_t>(rows_) * shape_.q_heads * layout.head_dim * DTypeBytes(layout.dtype);
}

absl::Status GpuSpanPlan::Reserve(int device) {
  const uint64_t bytes = static_cast<uint64_t>(schedule_.state_rows) * row_bytes();
  if (bytes <= parts_.bytes()) return absl::OkStatus();
  parts_.Reset();
  ASSIGN_OR_RETURN(parts_, DeviceMemory::Create(device, bytes + bytes / 2));
  return absl::OkStatus();
}

absl::Status GpuSpanPlan::Enqueue(GpuStream& stream, int layer, int window, const void* q, float* states) {
  const KvLayout& layout = storage_->layout();
  const int64_t heads = shape_.q_heads, head_dim = layout.head_dim;
  GpuAttentionArgs args;
  args.tables.SetWork(tables_->At(work_), schedule_.work_count);
  args.tables.rows = tables_->At(work_rows_), args.tables.positions = tables_->At(positions_);
  args.tables.block_table = tables_->At(block_table_);
  args.q = q, args.q_stride = heads * head_dim;
  args.k = storage_->k_slab(layer), args.v = storage_->v_slab(layer);
  args.layout = layout, args.q_heads = shape_.q_heads;
  args.window = window, args.scale = shape_.scale;
  args.acc = parts_.data<float>();
  args.max = args.acc + schedule_.state_rows * heads * head_dim;
  args.sum = args.max + schedule_.state_rows * heads;
  RETURN_IF_ERROR(ToStatus(GpuPartialAttention(stream.ref(), args)));

  GpuMergeStatesArgs merge;
  merge.acc = args.acc, merge.max = args.max, merge.sum = args.sum;
  merge.part_begin = tables_->At(merge_begin_), merge.part_ids = tables_->At(merge_states_);
  merge.rows = rows_, merge.heads = shape_.q_heads, merge.head_dim = layout.head_dim;
  merge.acc_out = states;
  merge.max_out = merge.acc_out + rows_ * heads * head_dim;
  merge.sum_out = merge.max_out + rows_ * heads;
  return ToStatus(GpuMergeStates(stream.ref(), merge));
}

}  // namespace lombard
