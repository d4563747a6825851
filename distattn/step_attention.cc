#include "distattn/step_attention.h"

#include <algorithm>
#include <chrono>

#include "base/check.h"
#include "base/status.h"
#include "distattn/attention_state.h"
#include "kernels/attention.h"
#include "kernels/elementwise.h"

namespace lombard {
namespace {

double SecondsSince(std::chrono::steady_clock::time_point& mark) {
  const auto now = std::chrono::steady_clock::now();
  const double seconds = std::chrono::duration<double>(now - mark).count();
  mark = now;
  return seconds;
}

}  // namespace

StepAttention::StepAttention(const AttentionShape& shape, const CpuContext& context, const KvStorage* storage,
                             RemoteClient* client)
    : shape_(shape), context_(context), storage_(storage), client_(client) {
  CHECK_EQ(shape_.layer_windows.size(), static_cast<size_t>(storage_->layers()));
}

void StepAttention::Begin(uint64_t step, const AttentionPlan* plan, std::function<void(int)> after_kv) {
  step_ = step;
  plan_ = plan;
  after_kv_ = std::move(after_kv);
  has_remote_ = false;
  timing_ = {};
  positions_.assign(plan->rows(), 0);
  state_offset_.clear();
  size_t state_rows = 0;
  for (const SequenceRows& sequence : plan->sequences) {
    for (int row = 0; row < sequence.rows; ++row)
      positions_[sequence.first_row + row] = sequence.first_position + row;
    for (const AttentionSpan& span : sequence.spans) {
      state_offset_.push_back(state_rows);
      state_rows += sequence.rows;
      has_remote_ |= std::holds_alternative<LentSpan>(span);
    }
  }
  CHECK(!has_remote_ || client_ != nullptr);
  first_shared_row_ = state_rows;
  shared_rows_.assign(plan->sequences.size(), {});
  shared_positions_.clear();
  for (const SharedSpan& shared : plan->shared) {
    const int end = shared.span.first_position + shared.span.token_count;
    for (const int reader : shared.readers) {
      const SequenceRows& sequence = plan->sequences[reader];
      CHECK_GE(sequence.first_position, end);
      shared_rows_[reader].push_back(state_rows);
      state_rows += sequence.rows;
      shared_positions_.insert(shared_positions_.end(), sequence.rows, end);
    }
  }
  shared_q_.resize((state_rows - first_shared_row_) * shape_.q_heads * storage_->layout().head_dim);
  acc_.resize(state_rows * shape_.q_heads * storage_->layout().head_dim);
  max_.resize(state_rows * shape_.q_heads);
  sum_.resize(state_rows * shape_.q_heads);
}

void StepAttention::StoreNewKv(int layer, const float* k, const float* v) const {
  const KvLayout& layout = storage_->layout();
  std::vector<void*> k_blocks, v_blocks;
  std::vector<int> slots;
  for (const KvTarget& target : plan_->new_kv) {
    k_blocks.push_back(storage_->k(layer, target.block));
    v_blocks.push_back(storage_->v(layer, target.block));
    slots.push_back(target.slot);
  }
  const int64_t stride = int64_t{layout.kv_heads} * layout.head_dim;
  WriteKv(context_, {.k = k,
                     .v = v,
                     .k_stride = stride,
                     .v_stride = stride,
                     .rows = plan_->rows(),
                     .layout = layout,
                     .k_blocks = k_blocks.data(),
                     .v_blocks = v_blocks.data(),
                     .slots = slots.data()});
}

AttentionState StepAttention::StateAt(size_t span, int rows) {
  return StateOfRows(state_offset_[span], rows);
}

AttentionState StepAttention::StateOfRows(size_t first_row, int rows) {
  const size_t first = first_row * shape_.q_heads, count = static_cast<size_t>(rows) * shape_.q_heads;
  const size_t head_dim = storage_->layout().head_dim;
  return {absl::MakeSpan(acc_).subspan(first * head_dim, count * head_dim),
          absl::MakeSpan(max_).subspan(first, count), absl::MakeSpan(sum_).subspan(first, count)};
}

absl::Status StepAttention::Attend(int layer, float* q, const float* k, const float* v, float* out) {
  const KvLayout& layout = storage_->layout();
  const int window = shape_.layer_windows[layer];
  const int64_t row_floats = int64_t{shape_.q_heads} * layout.head_dim;
  auto mark = std::chrono::steady_clock::now();

  StoreNewKv(layer, k, v);
  if (layout.dtype != DType::kF32) RoundTo(context_, layout.dtype, q, plan_->rows() * row_floats);
  if (after_kv_) after_kv_(layer);

  // Every span becomes an item for its home. A span that lies wholly behind the window of its first row is
  // left out.
  std::vector<RemoteItem> remote;
  std::vector<AttentionArgs> local;
  std::vector<std::vector<const void*>> block_lists;  // K and V lists of the local items
  size_t span_count = 0;
  for (const SequenceRows& sequence : plan_->sequences) span_count += sequence.spans.size();
  block_lists.reserve(2 * (span_count + plan_->shared.size()));
  const auto add_local = [&](const LocalSpan& span, size_t skip, const float* rows_q,
                             const int32_t* positions, int rows, const AttentionState& state) {
    auto& k_list = block_lists.emplace_back();
    auto& v_list = block_lists.emplace_back();
    for (size_t i = skip; i < span.blocks.size(); ++i) {
      k_list.push_back(storage_->k(layer, span.blocks[i]));
      v_list.push_back(storage_->v(layer, span.blocks[i]));
    }
    const int skipped = static_cast<int>(skip) * layout.block_tokens;
    local.push_back({.q = rows_q,
                     .q_positions = positions,
                     .rows = rows,
                     .q_heads = shape_.q_heads,
                     .layout = layout,
                     .k_blocks = k_list.data(),
                     .v_blocks = v_list.data(),
                     .token_count = std::max(0, span.token_count - skipped),
                     .first_position = span.first_position + skipped,
                     .window = window,
                     .scale = shape_.scale,
                     .acc = state.acc.data(),
                     .max = state.max.data(),
                     .sum = state.sum.data()});
  };
  size_t stacked = first_shared_row_;
  for (const SharedSpan& shared : plan_->shared) {
    CHECK_EQ(window, 0);
    const size_t first = stacked;
    for (const int reader : shared.readers) {
      const SequenceRows& sequence = plan_->sequences[reader];
      std::copy_n(q + sequence.first_row * row_floats, sequence.rows * row_floats,
                  shared_q_.data() + (stacked - first_shared_row_) * row_floats);
      stacked += sequence.rows;
    }
    const size_t at = first - first_shared_row_;
    const int rows = static_cast<int>(stacked - first);
    add_local(shared.span, 0, shared_q_.data() + at * row_floats, shared_positions_.data() + at, rows,
              StateOfRows(first, rows));
  }
  size_t index = 0;
  for (const SequenceRows& sequence : plan_->sequences) {
    const int visible = AttentionShape::FirstVisible(sequence.first_position, window);
    for (const AttentionSpan& span : sequence.spans) {
      const AttentionState state = StateAt(index++, sequence.rows);
      const float* rows_q = q + sequence.first_row * row_floats;
      if (const auto* lent = std::get_if<LentSpan>(&span)) {
        if (lent->first_position + lent->token_count <= visible) {
          ResetState(state);
          continue;
        }
        remote.push_back({.creditor = lent->creditor,
                          .loan = lent->loan,
                          .epoch = lent->epoch,
                          .first_slot = lent->first_slot,
                          .first_position = lent->first_position,
                          .token_count = lent->token_count,
                          .rows = sequence.rows,
                          .first_query_position = sequence.first_position,
                          .q = rows_q,
                          .state = state});
        continue;
      }
      const auto& here = std::get<LocalSpan>(span);
      // Whole blocks behind the window need not be read.
      const int skip = std::clamp((visible - here.first_position) / layout.block_tokens, 0,
                                  static_cast<int>(here.blocks.size()));
      add_local(here, static_cast<size_t>(skip), rows_q, positions_.data() + sequence.first_row,
                sequence.rows, state);
    }
  }
  keys_read_ = 0;
  for (const AttentionArgs& item : local) keys_read_ += item.token_count;

  if (!remote.empty()) RETURN_IF_ERROR(client_->Post(step_, layer, window, remote));
  timing_.send += SecondsSince(mark);
  PartialAttention(context_, local);
  timing_.local += SecondsSince(mark);
  if (!remote.empty()) RETURN_IF_ERROR(client_->Wait());
  timing_.wait += SecondsSince(mark);

  index = 0;
  for (size_t i = 0; i < plan_->sequences.size(); ++i) {
    const SequenceRows& sequence = plan_->sequences[i];
    std::vector<AttentionState> parts;  // in order of position
    for (const size_t first : shared_rows_[i]) parts.push_back(StateOfRows(first, sequence.rows));
    for (size_t span = 0; span < sequence.spans.size(); ++span)
      parts.push_back(StateAt(index++, sequence.rows));
    for (size_t part = 1; part < parts.size(); ++part) MergeInto(parts[part], parts[0]);
    Normalize(parts[0], absl::MakeSpan(out + sequence.first_row * row_floats, sequence.rows * row_floats));
  }
  timing_.merge += SecondsSince(mark);
  return absl::OkStatus();
}

}  // namespace lombard
