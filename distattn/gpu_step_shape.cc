#include "distattn/gpu_step_shape.h"

#include <algorithm>
#include <bit>

#include "base/check.h"

namespace lombard {

int PaddedRows(int rows, int rows_max) {
  CHECK(rows >= 1 && rows <= rows_max) << rows << " of " << rows_max;
  const int power = static_cast<int>(std::bit_ceil(static_cast<unsigned>(rows)));
  const bool fits = power > 8 && rows <= power / 4 * 3;
  return std::min(fits ? power / 4 * 3 : power, rows_max);
}

int PaddedCount(int count) {
  CHECK_GE(count, 0);
  int step = 1;
  while (count > 16 * step) step *= 2;
  return (count + step - 1) / step * step;
}

GpuStepShape PadSchedule(int rows, AttentionSchedule* schedule) {
  // Not fewer than the rows: a batch of short contexts has one piece for each.
  const auto padded = [rows](size_t count) {
    return count == 0 ? 0 : std::max(rows, PaddedCount(static_cast<int>(count)));
  };
  GpuStepShape shape{.rows = rows,
                     .listed_rows = padded(schedule->rows.size()),
                     .merged_states = padded(schedule->merge_states.size())};
  auto at = schedule->work.begin();
  for (int kernel = 0; kernel < kAttentionKernels; ++kernel) {
    int& count = schedule->work_count[kernel];
    shape.work[kernel] = padded(static_cast<size_t>(count));
    at = schedule->work.insert(at + count, shape.work[kernel] - count, AttentionWork{}) +
         (shape.work[kernel] - count);
    count = shape.work[kernel];
  }
  schedule->rows.resize(shape.listed_rows, 0);
  schedule->merge_states.resize(shape.merged_states, 0);
  return shape;
}

}  // namespace lombard
