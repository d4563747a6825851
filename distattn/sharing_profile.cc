#include "distattn/sharing_profile.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <vector>

#include "distattn/attention_state.h"

namespace lombard {
namespace {

constexpr int kKeys =
    512;  // of a timed span: some MiB at most, so that readers after the first find it cached
constexpr int kTinyItems = 8;  // of the timing of a job
constexpr int kRunsMax = 5;    // the fastest counts: whoever else uses the machine only makes it slower

class Stopwatch {
 public:
  explicit Stopwatch(absl::Duration budget) : left_(absl::ToDoubleSeconds(budget)) {}
  // Seconds of the fastest run; infinity when there is no time left for one that takes `expected`.
  double Fastest(double expected, const std::function<void()>& run) {
    double fastest = std::numeric_limits<double>::infinity();
    for (int i = 0; i < kRunsMax && expected < left_; ++i) {
      const auto start = std::chrono::steady_clock::now();
      run();
      const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      left_ -= seconds;
      if (expected > 0) fastest = std::min(fastest, seconds);  // a first one also touched the memory
      expected = seconds;
    }
    return fastest;
  }

 private:
  double left_;
};

}  // namespace

SharingCost MeasureSharing(const AttentionShape& shape, const KvLayout& layout, const CpuContext& context,
                           absl::Duration budget) {
  constexpr int kRowsMax = SharingCost::kRows.back();
  const size_t row_floats = size_t{static_cast<size_t>(shape.q_heads)} * layout.head_dim;
  const int block_count = (kKeys + layout.block_tokens - 1) / layout.block_tokens;
  // Zeros take as long as any other values.
  std::vector<char> kv(2 * static_cast<size_t>(layout.block_bytes()) * block_count);
  std::vector<const void*> k_blocks, v_blocks;
  for (int i = 0; i < block_count; ++i) {
    k_blocks.push_back(kv.data() + 2 * i * layout.block_bytes());
    v_blocks.push_back(kv.data() + (2 * i + 1) * layout.block_bytes());
  }
  std::vector<float> q(kRowsMax * row_floats), acc(2 * q.size());
  std::vector<float> max(2 * size_t{kRowsMax} * shape.q_heads), sum(max.size());
  const std::vector<int32_t> positions(kRowsMax, kKeys);
  const auto item = [&](int rows, int keys) {
    return AttentionArgs{.q = q.data(),
                         .q_positions = positions.data(),
                         .rows = rows,
                         .q_heads = shape.q_heads,
                         .layout = layout,
                         .k_blocks = k_blocks.data(),
                         .v_blocks = v_blocks.data(),
                         .token_count = keys,
                         .first_position = 0,
                         .scale = shape.scale,
                         .acc = acc.data(),
                         .max = max.data(),
                         .sum = sum.data()};
  };

  Stopwatch watch(budget);
  SharingCost cost = SharingCost::Never();
  double seconds = 0;
  for (size_t i = 0; i < SharingCost::kRows.size(); ++i) {
    const int rows = SharingCost::kRows[i];
    const AttentionArgs one = item(rows, kKeys);
    const double known = seconds;
    seconds = watch.Fastest(2 * known, [&] { PartialAttention(context, {one}); });
    seconds =
        std::min(seconds, 2 * known + (i == 0 ? seconds : 0));  // twice the rows, at most twice the time
    cost.key_seconds[i] = seconds / kKeys;
  }
  // Further items of different lists, as readers apart have them.
  std::vector<AttentionArgs> tiny;
  for (int i = 0; i <= kTinyItems; ++i) {
    tiny.push_back(item(1, 1));
    tiny.back().acc += i * row_floats, tiny.back().max += i * shape.q_heads,
        tiny.back().sum += i * shape.q_heads;
  }
  const double one = watch.Fastest(0, [&] { PartialAttention(context, absl::MakeSpan(tiny).first(1)); });
  const double many = watch.Fastest(one, [&] { PartialAttention(context, tiny); });
  if (!std::isfinite(many)) return SharingCost::Never();
  cost.job_seconds = std::max(0.0, many - one) / kTinyItems;
  const size_t state_rows = size_t{kRowsMax} * shape.q_heads;
  std::fill(max.begin(), max.end(), 0.0f);
  const auto state = [&](size_t from) {
    return AttentionState{absl::MakeSpan(acc).subspan(from * layout.head_dim, state_rows * layout.head_dim),
                          absl::MakeSpan(max).subspan(from, state_rows),
                          absl::MakeSpan(sum).subspan(from, state_rows)};
  };
  cost.row_seconds = watch.Fastest(0, [&] {
    std::memcpy(acc.data(), q.data(), q.size() * sizeof(float));
    MergeInto(state(0), state(state_rows));
  }) / kRowsMax;
  return cost;
}

}  // namespace lombard
