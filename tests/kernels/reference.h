// The float64 references that kernels of every device are tested against.
#pragma once

#include <cmath>
#include <cstdint>
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

}  // namespace lombard
