// The float64 references that kernels of every device are tested against.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace lombard {

// v / sqrt(mean v^2 + eps) * weight.
inline std::vector<double> RmsNormReference(const std::vector<double>& v, const float* weight, float eps) {
  double squares = 0;
  for (const double x : v) squares += x * x;
  const double scale = 1 / std::sqrt(squares / static_cast<double>(v.size()) + double{eps});
  std::vector<double> y(v.size());
  for (size_t i = 0; i < v.size(); ++i) y[i] = v[i] * scale * weight[i];
  return y;
}

// gate / (1 + e^-gate) * up.
inline double SwiGluReference(double gate, double up) { return gate / (1 + std::exp(-gate)) * up; }

// The pair (low, high) turned by `angle`, cos and sin times factor.
struct RotatedPair {
  double low, high;
};
inline RotatedPair RopeReference(double low, double high, double angle, double factor) {
  const double c = factor * std::cos(angle), s = factor * std::sin(angle);
  return {low * c - high * s, high * c + low * s};
}

// The attention state of one query row and head over the keys that it sees, with what bounds of it need.
struct AttentionReference {
  double max = -std::numeric_limits<double>::infinity(), sum = 0;
  std::vector<double> acc, acc_magnitude;  // [head_dim]; magnitude: sum of |terms|
  double score_magnitude = 0;              // largest sum of |scale q k| of a score
  size_t seen = 0;                         // keys
};
// The keys of a span: k(t, d), v(t, d) for t in [0, token_count) at positions first_position + t.
template <class K, class V>
AttentionReference AttentionOverSpan(const float* q, int head_dim, float scale, int64_t position, int window,
                                     int64_t first_position, int token_count, K k, V v) {
  AttentionReference state;
  state.acc.resize(head_dim), state.acc_magnitude.resize(head_dim);
  std::vector<double> scores;
  std::vector<int> seen;
  for (int t = 0; t < token_count; ++t) {
    const int64_t key = first_position + t;
    if (key > position || (window != 0 && key <= position - window)) continue;
    double score = 0, magnitude = 0;
    for (int d = 0; d < head_dim; ++d) {
      const double product = double{q[d]} * k(t, d) * scale;
      score += product, magnitude += std::abs(product);
    }
    scores.push_back(score), seen.push_back(t);
    state.max = std::max(state.max, score);
    state.score_magnitude = std::max(state.score_magnitude, magnitude);
  }
  state.seen = seen.size();
  for (size_t i = 0; i < seen.size(); ++i) {
    const double weight = std::exp(scores[i] - state.max);
    state.sum += weight;
    for (int d = 0; d < head_dim; ++d) {
      const double term = weight * v(seen[i], d);
      state.acc[d] += term, state.acc_magnitude[d] += std::abs(term);
    }
  }
  return state;
}

}  // namespace lombard
