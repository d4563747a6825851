#include "distattn/gpu_span_attention.h"

#include <algorithm>

#include "base/device/gpu_status.h"
#include "base/status.h"
#include "kernels/cuda/attention_schedule.h"
#include "kernels/cuda/merge_states.h"
#include "kernels/cuda/partial_attention.h"

namespace lombard {

absl::StatusOr<std::unique_ptr<GpuSpanAttention>> GpuSpanAttention::Create(int device,
                                                                           const AttentionShape& shape,
                                                                           const GpuKvStorage* storage) {
  ASSIGN_OR_RETURN(GpuStream stream, GpuStream::Create(device, /*priority=*/-1));
  return std::unique_ptr<GpuSpanAttention>(new GpuSpanAttention(shape, storage, std::move(stream)));
}

GpuSpanAttention::~GpuSpanAttention() { stream_.Synchronize().IgnoreError(); }

absl::Status GpuSpanAttention::AttendOneWindow(int layer, absl::Span<const SpanQuery> queries,
                                               absl::string_view q) {
  const KvLayout& layout = storage_->layout();
  const int64_t heads = shape_.q_heads, head_dim = layout.head_dim;
  std::vector<AttentionItem> items;
  std::vector<int32_t> block_table, positions;
  std::vector<int32_t> first_row;  // of each query
  for (const SpanQuery& query : queries) {
    first_row.push_back(static_cast<int32_t>(positions.size()));
    for (int row = 0; row < query.rows; ++row) positions.push_back(query.first_query_position + row);
  }
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
  const int rows = static_cast<int>(positions.size());
  const AttentionSchedule schedule = PlanAttention(layout, shape_.q_heads, positions, items);

  tables_.Clear();
  const auto q_place = tables_.Add<char>(absl::MakeConstSpan(q.data(), q.size()));
  const auto work = tables_.Add<AttentionWork>(schedule.work);
  const auto work_rows = tables_.Add<int32_t>(schedule.rows);
  const auto merge_begin = tables_.Add<int32_t>(schedule.merge_begin);
  const auto merge_states = tables_.Add<int32_t>(schedule.merge_states);
  const auto table = tables_.Add<int32_t>(block_table), positions_place = tables_.Add<int32_t>(positions);
  RETURN_IF_ERROR(tables_.Send(stream_));
  const uint64_t row_bytes = static_cast<uint64_t>(heads * (head_dim + 2)) * sizeof(float);
  const uint64_t bytes = (schedule.state_rows + uint64_t(rows)) * row_bytes;
  if (bytes > states_.bytes()) {
    states_.Reset();
    ASSIGN_OR_RETURN(states_, DeviceMemory::Create(stream_.device(), bytes + bytes / 2));
  }
  if (rows * row_bytes > host_.bytes()) {
    ASSIGN_OR_RETURN(host_, PinnedMemory::Create(stream_.device(), rows * row_bytes + rows * row_bytes / 2));
  }

  GpuAttentionArgs args;
  const AttentionWork* next = tables_.At(work);
  for (int kernel = 0; kernel < kAttentionKernels; ++kernel) {
    args.tables.work[kernel] = next;
    args.tables.work_count[kernel] = schedule.work_count[kernel];
    next += schedule.work_count[kernel];
  }
  args.tables.rows = tables_.At(work_rows), args.tables.positions = tables_.At(positions_place);
  args.tables.block_table = tables_.At(table);
  args.q = tables_.At(q_place), args.q_stride = heads * head_dim;
  args.k = storage_->k_slab(layer), args.v = storage_->v_slab(layer);
  args.layout = layout, args.q_heads = shape_.q_heads;
  args.window = queries[0].window, args.scale = shape_.scale;
  args.acc = states_.data<float>();
  args.max = args.acc + schedule.state_rows * heads * head_dim;
  args.sum = args.max + schedule.state_rows * heads;
  RETURN_IF_ERROR(ToStatus(GpuPartialAttention(stream_.ref(), args)));

  GpuMergeStatesArgs merge;
  merge.acc = args.acc, merge.max = args.max, merge.sum = args.sum;
  merge.part_begin = tables_.At(merge_begin), merge.part_ids = tables_.At(merge_states);
  merge.rows = rows, merge.heads = shape_.q_heads, merge.head_dim = layout.head_dim;
  merge.acc_out = args.sum + schedule.state_rows * heads;
  merge.max_out = merge.acc_out + rows * heads * head_dim;
  merge.sum_out = merge.max_out + rows * heads;
  RETURN_IF_ERROR(ToStatus(GpuMergeStates(stream_.ref(), merge)));
  return stream_.Copy(host_.data(), merge.acc_out, rows * row_bytes);
}

absl::Status GpuSpanAttention::Attend(int layer, absl::Span<const SpanQuery> queries, absl::string_view q,
                                      absl::Span<float> states) {
  const size_t heads = shape_.q_heads, head_dim = storage_->layout().head_dim;
  const size_t row_bytes = heads * head_dim * DTypeBytes(storage_->layout().dtype);
  float* to = states.data();
  counts_ = {};
  while (!queries.empty()) {
    size_t count = 0, rows = 0;  // of the next queries that have one window
    for (; count < queries.size() && queries[count].window == queries[0].window; ++count)
      rows += queries[count].rows;
    const absl::Status enqueued = AttendOneWindow(layer, queries.first(count), q.substr(0, rows * row_bytes));
    RETURN_IF_ERROR(stream_.Synchronize());  // also after a failure: the tables are written again
    RETURN_IF_ERROR(enqueued);
    const float *acc = host_.data<float>(), *max = acc + rows * heads * head_dim, *sum = max + rows * heads;
    for (const SpanQuery& query : queries.first(count)) {
      const size_t state_rows = query.rows * heads;
      to = std::copy_n(acc, state_rows * head_dim, to), acc += state_rows * head_dim;
      to = std::copy_n(max, state_rows, to), max += state_rows;
      to = std::copy_n(sum, state_rows, to), sum += state_rows;
    }
    queries.remove_prefix(count), q.remove_prefix(rows * row_bytes);
  }
  return absl::OkStatus();
}

}  // namespace lombard
