#include "kernels/cuda/attention_schedule.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace lombard {

AttentionSchedule PlanAttention(const KvLayout& layout, int q_heads, absl::Span<const int32_t> positions,
                                absl::Span<const AttentionItem> items) {
  CHECK(layout.kv_heads > 0 && q_heads % layout.kv_heads == 0) << q_heads << " / " << layout.kv_heads;
  const int group = q_heads / layout.kv_heads;
  const int step_rows = static_cast<int>(positions.size());
  AttentionSchedule schedule;
  std::vector<std::pair<int32_t, int32_t>> merges;  // (row of the step, state row)
  for (const AttentionItem& item : items)
    if (item.remote && item.token_count > 0) schedule.state_rows += static_cast<int32_t>(item.rows.size());
  int32_t remote_rows = 0;
  for (const AttentionItem& item : items) {
    const int rows = static_cast<int>(item.rows.size());
    const int first_row = static_cast<int>(schedule.rows.size());
    int32_t& next_state = item.remote ? remote_rows : schedule.state_rows;
    schedule.item_states.push_back(next_state);
    schedule.rows.insert(schedule.rows.end(), item.rows.begin(), item.rows.end());
    for (const int32_t row : item.rows) CHECK(row >= 0 && row < step_rows) << row << " of " << step_rows;
    const AttentionKernel kernel = ChooseAttentionKernel(layout, group, rows, item.shared);
    const bool whole = item.remote || AttendsWhole(kernel, rows * group, layout.kv_heads, item.shared);
    const int part_keys = whole ? item.token_count : AttentionPartKeys(kernel, item.token_count);
    for (int first_key = 0; first_key < item.token_count; first_key += part_keys) {
      for (int r = 0; r < rows; ++r) merges.emplace_back(item.rows[r], next_state + r);
      const int rows_max = AttentionRowsMax(kernel, group);
      for (int r = 0; r < rows && !item.remote; r += rows_max) {
        AttentionWork work{.first_block = item.first_block,
                           .first_key = first_key,
                           .key_count = std::min(part_keys, item.token_count - first_key),
                           .first_position = item.first_position,
                           .first_row = first_row + r,
                           .rows = std::min(rows_max, rows - r),
                           .first_state = next_state + r,
                           .kernel = static_cast<int32_t>(kernel)};
        work.position_min = work.position_max = positions[item.rows[r]];
        for (int i = r; i < r + work.rows; ++i) {
          work.position_min = std::min(work.position_min, positions[item.rows[i]]);
          work.position_max = std::max(work.position_max, positions[item.rows[i]]);
        }
        schedule.work.push_back(work);
        ++schedule.work_count[static_cast<int>(kernel)];
      }
      next_state += rows;
    }
  }
  // Of one kernel the longest first, so that the last to end are short. This is the host's time before each
  // step: numbers are sorted (kernel, keys less than the most there can be, place), not pieces.
  std::vector<uint64_t> order;
  order.reserve(schedule.work.size());
  for (const AttentionWork& work : schedule.work) {
    const int keys =
        std::clamp(work.position_max - work.first_position - work.first_key + 1, 0, work.key_count);
    order.push_back(static_cast<uint64_t>(work.kernel) << 62 | uint64_t(INT32_MAX - keys) << 31 |
                    order.size());
  }
  std::sort(order.begin(), order.end());
  std::vector<AttentionWork> sorted;
  sorted.reserve(order.size());
  for (const uint64_t at : order) sorted.push_back(schedule.work[at & INT32_MAX]);
  schedule.work = std::move(sorted);
  // By row; the order of items and parts stays.
  schedule.merge_begin.assign(step_rows + 1, 0);
  for (const auto& [row, state] : merges) ++schedule.merge_begin[row + 1];
  for (int row = 0; row < step_rows; ++row) schedule.merge_begin[row + 1] += schedule.merge_begin[row];
  std::vector<int32_t> next(schedule.merge_begin.begin(), schedule.merge_begin.end() - 1);
  schedule.merge_states.resize(merges.size());
  for (const auto& [row, state] : merges) schedule.merge_states[next[row]++] = state;
  return schedule;
}

}  // namespace lombard
