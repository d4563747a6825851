#include "distattn/gpu_span_attention.h"

#include <algorithm>

#include "base/status.h"

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
  tables_.Clear();
  const auto q_place = tables_.Add<char>(absl::MakeConstSpan(q.data(), q.size()));
  plan_.Plan(queries, &tables_);
  RETURN_IF_ERROR(tables_.Send(stream_));
  RETURN_IF_ERROR(plan_.Reserve(stream_.device()));
  const uint64_t bytes = plan_.state_bytes();
  if (bytes > states_.bytes()) {
    states_.Reset();
    ASSIGN_OR_RETURN(states_, DeviceMemory::Create(stream_.device(), bytes + bytes / 2));
  }
  if (bytes > host_.bytes()) {
    ASSIGN_OR_RETURN(host_, PinnedMemory::Create(stream_.device(), bytes + bytes / 2));
  }
  counts_.keys += plan_.counts().keys, counts_.products += plan_.counts().products;
  RETURN_IF_ERROR(
      plan_.Enqueue(stream_, layer, queries[0].window, tables_.At(q_place), states_.data<float>()));
  return stream_.Copy(host_.data(), states_.data(), bytes);
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
