#include "kernels/elementwise.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/check.h"
#include "kernels/internal/kernel_table.h"
#include "kernels/internal/parallel.h"

namespace lombard {
namespace {

constexpr int64_t kSerialElements = 1 << 15;  // below, waking threads costs more than the work: about 10 us

// body(row) for all rows, on several threads where `elements` in all are worth it.
void ForRows(const CpuContext& context, int64_t rows, int64_t elements,
             absl::FunctionRef<void(int64_t)> body) {
  if (elements <= kSerialElements || internal::Threads(context) == 1) {
    for (int64_t r = 0; r < rows; ++r) body(r);
    return;
  }
  const int64_t pieces = std::min<int64_t>(rows, 8 * internal::Threads(context));
  internal::ParallelFor(context, static_cast<int>(pieces), [&](int piece) {
    for (int64_t r = rows * piece / pieces; r < rows * (piece + 1) / pieces; ++r) body(r);
  });
}

// body(first, count) over stretches of a long array.
void ForStretches(const CpuContext& context, int64_t count, absl::FunctionRef<void(int64_t, int64_t)> body) {
  constexpr int64_t kStretch = 1 << 14;
  ForRows(context, (count + kStretch - 1) / kStretch, count,
          [&](int64_t i) { body(i * kStretch, std::min(kStretch, count - i * kStretch)); });
}

}  // namespace

void RmsNorm(const CpuContext& context, const RmsNormArgs& args) {
  const auto normalize = internal::KernelsFor(context.isa).rms_norm;
  ForRows(context, args.rows, args.rows * args.dim, [&](int64_t r) {
    normalize(args.x + r * args.x_stride, args.weight, args.y + r * args.y_stride, args.dim, args.eps);
  });
}

void Rope(const CpuContext& context, const RopeArgs& args) {
  CHECK_EQ(args.head_dim % 2, 0);
  const auto rotate = internal::KernelsFor(context.isa).rotate;
  const int64_t half = args.head_dim / 2;
  // A sine costs as much as some 16 rotated elements.
  ForRows(context, args.rows, args.rows * (args.heads * args.head_dim + 16 * args.head_dim), [&](int64_t r) {
    std::vector<float> cos_sin(args.head_dim);
    for (int64_t i = 0; i < half; ++i) {
      const double angle = args.positions[r] * args.inv_freq[i];
      cos_sin[i] = static_cast<float>(std::cos(angle) * args.attention_factor);
      cos_sin[half + i] = static_cast<float>(std::sin(angle) * args.attention_factor);
    }
    for (int64_t h = 0; h < args.heads; ++h) {
      rotate(args.x + r * args.row_stride + h * args.head_dim, cos_sin.data(), cos_sin.data() + half, half);
    }
  });
}

void SwiGlu(const CpuContext& context, const SwiGluArgs& args) {
  const auto swiglu = internal::KernelsFor(context.isa).swiglu;
  ForRows(context, args.rows, args.rows * args.dim, [&](int64_t r) {
    swiglu(args.gate + r * args.in_stride, args.up + r * args.in_stride, args.y + r * args.y_stride,
           args.dim);
  });
}

void Embed(const CpuContext& context, const EmbedArgs& args) {
  const auto convert = internal::KernelsFor(context.isa).to_f32[static_cast<int>(args.dtype)];
  const char* table = static_cast<const char*>(args.table);
  const int64_t row_bytes = args.dim * static_cast<int64_t>(DTypeBytes(args.dtype));
  ForRows(context, args.rows, args.rows * args.dim,
          [&](int64_t r) { convert(table + args.ids[r] * row_bytes, args.y + r * args.dim, args.dim); });
}

void ConvertFromF32(const CpuContext& context, const float* src, DType dtype, void* dst, int64_t count) {
  const auto convert = internal::KernelsFor(context.isa).from_f32[static_cast<int>(dtype)];
  ForStretches(context, count, [&](int64_t first, int64_t n) {
    convert(src + first, static_cast<char*>(dst) + first * static_cast<int64_t>(DTypeBytes(dtype)), n);
  });
}

void ConvertToF32(const CpuContext& context, DType dtype, const void* src, float* dst, int64_t count) {
  const auto convert = internal::KernelsFor(context.isa).to_f32[static_cast<int>(dtype)];
  ForStretches(context, count, [&](int64_t first, int64_t n) {
    convert(static_cast<const char*>(src) + first * static_cast<int64_t>(DTypeBytes(dtype)), dst + first, n);
  });
}

void RoundTo(const CpuContext& context, DType dtype, float* x, int64_t count) {
  const auto round = internal::KernelsFor(context.isa).round_to[static_cast<int>(dtype)];
  ForStretches(context, count, [&](int64_t first, int64_t n) { round(x + first, x + first, n); });
}

}  // namespace lombard
