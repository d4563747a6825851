#include "distattn/gpu_step_attention.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <numeric>

#include "base/check.h"
#include "base/device/gpu_status.h"
#include "base/status.h"
#include "kernels/cuda/merge_states.h"
#include "kernels/elementwise.h"

namespace lombard {
namespace {

double SecondsSince(std::chrono::steady_clock::time_point& mark) {
  const auto now = std::chrono::steady_clock::now();
  const double seconds = std::chrono::duration<double>(now - mark).count();
  mark = now;
  return seconds;
}

absl::Status Grow(int device, uint64_t bytes, PinnedMemory* memory) {
  if (bytes <= memory->bytes()) return absl::OkStatus();
  ASSIGN_OR_RETURN(*memory, PinnedMemory::Create(device, bytes + bytes / 2));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<GpuStepAttention>> GpuStepAttention::Create(const AttentionShape& shape,
                                                                           const GpuKvStorage* storage,
                                                                           RemoteClient* client,
                                                                           GpuStream* stream,
                                                                           GpuExchanger* exchanger) {
  CHECK_EQ(shape.layer_windows.size(), static_cast<size_t>(storage->layers()));
  ASSIGN_OR_RETURN(GpuEvent queries_here, GpuEvent::Create(stream->device()));
  ASSIGN_OR_RETURN(GpuEvent begin, GpuEvent::Create(stream->device(), /*timing=*/true));
  ASSIGN_OR_RETURN(GpuEvent end, GpuEvent::Create(stream->device(), /*timing=*/true));
  std::unique_ptr<GpuStepAttention> attention(new GpuStepAttention(
      shape, storage, client, stream, std::move(queries_here), std::move(begin), std::move(end)));
  if (exchanger != nullptr) {
    ASSIGN_OR_RETURN(
        attention->exchange_,
        GpuStepExchange::Create(exchanger, shape.q_heads, storage->layout(), storage->layers(), stream));
  }
  return attention;
}

GpuStepAttention::GpuStepAttention(const AttentionShape& shape, const GpuKvStorage* storage,
                                   RemoteClient* client, GpuStream* stream, GpuEvent queries_here,
                                   GpuEvent begin, GpuEvent end)
    : shape_(shape),
      storage_(storage),
      client_(client),
      stream_(stream),
      queries_here_(std::move(queries_here)),
      begin_(std::move(begin)),
      end_(std::move(end)) {}

// In order of position for each row: what is shared lies before a sequence's own spans. Fills lent_, but for
// the places of the states.
std::vector<AttentionItem> GpuStepAttention::MakeItems() {
  std::vector<AttentionItem> items;
  const auto rows_of = [](const SequenceRows& sequence, std::vector<int32_t>* rows) {
    for (int row = 0; row < sequence.rows; ++row) rows->push_back(sequence.first_row + row);
  };
  const auto local_item = [&](const LocalSpan& span) {
    AttentionItem& item =
        items.emplace_back(AttentionItem{.first_block = static_cast<int32_t>(block_ids_.size()),
                                         .token_count = span.token_count,
                                         .first_position = span.first_position});
    for (const BlockId block : span.blocks) block_ids_.push_back(static_cast<int32_t>(Value(block)));
    keys_read_ += span.token_count;
    return &item;
  };
  for (const SharedSpan& shared : plan_->shared) {
    AttentionItem* const item = local_item(shared.span);
    item->shared = true;
    for (const int reader : shared.readers) {
      const SequenceRows& sequence = plan_->sequences[reader];
      CHECK_GE(sequence.first_position, shared.span.first_position + shared.span.token_count);
      rows_of(sequence, &item->rows);
    }
  }
  for (const SequenceRows& sequence : plan_->sequences) {
    for (const AttentionSpan& span : sequence.spans) {
      if (const auto* lent = std::get_if<LentSpan>(&span)) {
        AttentionItem& item = items.emplace_back(AttentionItem{
            .token_count = lent->token_count, .first_position = lent->first_position, .remote = true});
        rows_of(sequence, &item.rows);
        lent_.push_back({.span = *lent,
                         .first_row = sequence.first_row,
                         .rows = sequence.rows,
                         .first_query_position = sequence.first_position});
        host_states_at_.push_back(lent_rows_);
        lent_rows_ += sequence.rows;
      } else {
        rows_of(sequence, &local_item(std::get<LocalSpan>(span))->rows);
      }
    }
  }
  return items;
}

absl::Status GpuStepAttention::GrowStates(int64_t rows) {
  if (rows <= state_rows_) return absl::OkStatus();
  states_.Reset();
  state_rows_ = 0, ++generation_;
  const uint64_t row_bytes =
      static_cast<uint64_t>(shape_.q_heads) * (storage_->layout().head_dim + 2) * sizeof(float);
  absl::StatusOr<DeviceMemory> states =
      DeviceMemory::Create(stream_->device(), static_cast<uint64_t>(rows) * row_bytes);
  if (!states.ok()) return Annotate(states.status(), "states of partial attention");
  states_ = *std::move(states);
  state_rows_ = rows;
  return absl::OkStatus();
}

absl::Status GpuStepAttention::Reserve(int rows, int sampled) {
  return GrowStates(std::max<int64_t>(rows, int64_t{32} * sampled));
}

absl::Status GpuStepAttention::Begin(uint64_t step, const AttentionPlan* plan, int padded_rows) {
  step_ = step, plan_ = plan;
  lent_.clear();
  host_states_at_.clear();
  lent_rows_ = 0, keys_read_ = 0;
  host_driven_ = false;
  peers_failed_ = false;
  timing_ = {};
  timed_layer_ = storage_->layers() / 2;
  block_ids_.clear();
  const std::vector<AttentionItem> items = MakeItems();
  const bool padded = padded_rows > 0 && lent_.empty();
  rows_ = padded ? padded_rows : plan->rows();
  CHECK_GE(rows_, plan->rows());
  row_positions_.assign(rows_, 0);
  for (const SequenceRows& sequence : plan->sequences) {
    for (int row = 0; row < sequence.rows; ++row)
      row_positions_[sequence.first_row + row] = sequence.first_position + row;
  }
  schedule_ = PlanAttention(storage_->layout(), shape_.q_heads, row_positions_, items);
  size_t next = 0;
  for (size_t i = 0; i < items.size(); ++i) {
    if (items[i].remote) lent_[next++].first_state = schedule_.item_states[i];
  }
  padded_shape_.reset();
  if (padded) padded_shape_ = PadSchedule(rows_, &schedule_);
  if (schedule_.state_rows > state_rows_)
    RETURN_IF_ERROR(GrowStates(schedule_.state_rows + schedule_.state_rows / 4));
  if (lent_.empty()) return absl::OkStatus();
  CHECK(client_ != nullptr);
  const uint64_t row_floats = static_cast<uint64_t>(shape_.q_heads) * storage_->layout().head_dim;
  RETURN_IF_ERROR(
      Grow(stream_->device(), rows_ * row_floats * DTypeBytes(storage_->layout().dtype), &host_q_));
  RETURN_IF_ERROR(
      Grow(stream_->device(), lent_rows_ * (row_floats + 2 * shape_.q_heads) * sizeof(float), &host_states_));
  if (exchange_ != nullptr) RETURN_IF_ERROR(exchange_->Begin(step, &lent_));
  host_driven_ = std::any_of(lent_.begin(), lent_.end(), [](const LentRows& l) { return !l.announced; });
  return absl::OkStatus();
}

void GpuStepAttention::AddTables(GpuTables* tables) {
  tables_ = tables;
  std::vector<int32_t> slots(rows_, 0), blocks(rows_, -1);
  for (size_t row = 0; row < plan_->new_kv.size(); ++row) {
    slots[row] = plan_->new_kv[row].slot;
    blocks[row] = static_cast<int32_t>(Value(plan_->new_kv[row].block));
  }
  work_ = tables->Add<AttentionWork>(schedule_.work);
  work_rows_ = tables->Add<int32_t>(schedule_.rows);
  merge_begin_ = tables->Add<int32_t>(schedule_.merge_begin);
  merge_states_ = tables->Add<int32_t>(schedule_.merge_states);
  positions_ = tables->Add<int32_t>(row_positions_);
  slots_ = tables->Add<int32_t>(slots);
  blocks_ = tables->Add<int32_t>(blocks);
  block_table_ = tables->Add<int32_t>(block_ids_);  // last: its size is not the shape's
}

// Per lent span acc, max, sum.
AttentionState GpuStepAttention::HostState(size_t i) const {
  const size_t head_dim = storage_->layout().head_dim, row_values = shape_.q_heads * (head_dim + 2);
  const size_t count = static_cast<size_t>(lent_[i].rows) * shape_.q_heads;
  float* const acc = host_states_.data<float>() + host_states_at_[i] * row_values;
  return {{acc, count * head_dim}, {acc + count * head_dim, count}, {acc + count * (head_dim + 1), count}};
}

absl::StatusOr<bool> GpuStepAttention::PostLent(int layer) {
  const KvLayout& layout = storage_->layout();
  const size_t row_floats = static_cast<size_t>(shape_.q_heads) * layout.head_dim;
  const int window = shape_.layer_windows[layer];
  q_.resize(rows_ * row_floats);
  std::vector<RemoteItem> items;
  for (size_t i = 0; i < lent_.size(); ++i) {
    const LentRows& lent = lent_[i];
    if (lent.announced) continue;
    const LentSpan& span = lent.span;
    const AttentionState state = HostState(i);
    if (span.first_position + span.token_count <=
        AttentionShape::FirstVisible(lent.first_query_position, window)) {
      ResetState(state);  // wholly behind the window of its first row
      continue;
    }
    const size_t first = lent.first_row * row_floats;
    ConvertToF32({DetectIsa(), nullptr}, layout.dtype,
                 host_q_.data<char>() + first * DTypeBytes(layout.dtype), q_.data() + first,
                 static_cast<int64_t>(lent.rows * row_floats));
    items.push_back({.creditor = span.creditor,
                     .loan = span.loan,
                     .epoch = span.epoch,
                     .first_slot = span.first_slot,
                     .first_position = span.first_position,
                     .token_count = span.token_count,
                     .rows = lent.rows,
                     .first_query_position = lent.first_query_position,
                     .q = q_.data() + first,
                     .state = state});
  }
  if (items.empty()) return false;
  RETURN_IF_ERROR(client_->Post(step_, layer, window, items));
  return true;
}

absl::Status GpuStepAttention::UploadLent() {
  const size_t head_dim = storage_->layout().head_dim;
  for (size_t i = 0; i < lent_.size(); ++i) {
    if (lent_[i].announced) continue;
    const AttentionState state = HostState(i);
    const size_t first = static_cast<size_t>(lent_[i].first_state) * shape_.q_heads;
    RETURN_IF_ERROR(
        stream_->Copy(acc() + first * head_dim, state.acc.data(), state.acc.size() * sizeof(float)));
    RETURN_IF_ERROR(stream_->Copy(max() + first, state.max.data(), state.max.size() * sizeof(float)));
    RETURN_IF_ERROR(stream_->Copy(sum() + first, state.sum.data(), state.sum.size() * sizeof(float)));
  }
  return absl::OkStatus();
}

absl::Status GpuStepAttention::Attend(int layer, const void* q, void* out, DType out_dtype) {
  const KvLayout& layout = storage_->layout();
  const int64_t row_elements = int64_t{shape_.q_heads} * layout.head_dim;
  auto mark = std::chrono::steady_clock::now();
  const bool exchanges = exchange_ != nullptr && exchange_->running();
  if (exchanges) RETURN_IF_ERROR(exchange_->Send(q));
  if (host_driven_) {
    RETURN_IF_ERROR(stream_->Copy(host_q_.data(), q, rows_ * row_elements * DTypeBytes(layout.dtype)));
    RETURN_IF_ERROR(stream_->Record(queries_here_));
  }
  if (layer == timed_layer_) RETURN_IF_ERROR(stream_->Record(begin_));
  GpuAttentionArgs args;
  args.tables.SetWork(tables_->At(work_), schedule_.work_count);
  args.tables.rows = tables_->At(work_rows_);
  args.tables.positions = tables_->At(positions_);
  args.tables.block_table = tables_->At(block_table_);
  args.q = q, args.q_stride = row_elements;
  args.k = storage_->k_slab(layer), args.v = storage_->v_slab(layer);
  args.layout = layout, args.q_heads = shape_.q_heads;
  args.window = shape_.layer_windows[layer], args.scale = shape_.scale;
  args.acc = acc(), args.max = max(), args.sum = sum();
  RETURN_IF_ERROR(ToStatus(GpuPartialAttention(stream_->ref(), args)));
  if (layer == timed_layer_) RETURN_IF_ERROR(stream_->Record(end_));
  if (host_driven_) {
    RETURN_IF_ERROR(Wait(queries_here_));
    peers_failed_ = true;
    ASSIGN_OR_RETURN(const bool posted, PostLent(layer));
    timing_.send += SecondsSince(mark);
    if (posted) RETURN_IF_ERROR(client_->Wait());
    peers_failed_ = false;
    RETURN_IF_ERROR(UploadLent());
    timing_.wait += SecondsSince(mark);
  }
  if (exchanges) RETURN_IF_ERROR(exchange_->Receive(acc(), max(), sum()));
  GpuMergeStatesArgs merge;
  merge.acc = acc(), merge.max = max(), merge.sum = sum();
  merge.part_begin = tables_->At(merge_begin_), merge.part_ids = tables_->At(merge_states_);
  merge.rows = rows_, merge.heads = shape_.q_heads, merge.head_dim = layout.head_dim;
  merge.out = out, merge.out_dtype = out_dtype;
  return ToStatus(GpuMergeStates(stream_->ref(), merge));
}

absl::Status GpuStepAttention::Wait(GpuEvent& event) {
  return exchange_ != nullptr && exchange_->running() ? exchange_->Wait(event) : event.Synchronize();
}

absl::Status GpuStepAttention::End() {
  return exchange_ != nullptr && exchange_->running() ? exchange_->End() : absl::OkStatus();
}

absl::StatusOr<AttentionTiming> GpuStepAttention::Timing() const {
  AttentionTiming timing = timing_;
  ASSIGN_OR_RETURN(const float milliseconds, ElapsedMs(begin_, end_));
  timing.local = 1e-3 * milliseconds * storage_->layers();
  return timing;
}

}  // namespace lombard
