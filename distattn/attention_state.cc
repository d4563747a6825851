#include "distattn/attention_state.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"

namespace lombard {

void ResetState(AttentionState state) {
  std::fill(state.acc.begin(), state.acc.end(), 0.0f);
  std::fill(state.max.begin(), state.max.end(), -std::numeric_limits<float>::infinity());
  std::fill(state.sum.begin(), state.sum.end(), 0.0f);
}

void MergeInto(const AttentionState& src, AttentionState dst) {
  CHECK_EQ(src.acc.size(), dst.acc.size());
  CHECK_EQ(src.max.size(), dst.max.size());
  const size_t rows = dst.max.size(), head_dim = rows == 0 ? 0 : dst.acc.size() / rows;
  for (size_t row = 0; row < rows; ++row) {
    if (src.sum[row] == 0) continue;  // nothing seen there; also keeps -inf - -inf out
    const float max = std::max(src.max[row], dst.max[row]);
    const float src_scale = std::exp(src.max[row] - max), dst_scale = std::exp(dst.max[row] - max);
    const float* from = src.acc.data() + row * head_dim;
    float* to = dst.acc.data() + row * head_dim;
    for (size_t i = 0; i < head_dim; ++i) to[i] = to[i] * dst_scale + from[i] * src_scale;
    dst.sum[row] = dst.sum[row] * dst_scale + src.sum[row] * src_scale;
    dst.max[row] = max;
  }
}

void Normalize(const AttentionState& state, absl::Span<float> out) {
  CHECK_EQ(state.acc.size(), out.size());
  const size_t rows = state.max.size(), head_dim = rows == 0 ? 0 : out.size() / rows;
  for (size_t row = 0; row < rows; ++row) {
    const float scale = state.sum[row] > 0 ? 1 / state.sum[row] : 0;
    for (size_t i = 0; i < head_dim; ++i) out[row * head_dim + i] = state.acc[row * head_dim + i] * scale;
  }
}

}  // namespace lombard
