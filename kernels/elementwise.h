// The small row-wise operations of a transformer layer. All fp32, row-major; outputs may alias inputs only
// where said.
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "kernels/cpu_context.h"

namespace lombard {

// y[r, i] = x[r, i] / sqrt(mean_i x[r, i]^2 + eps) * weight[i]. Rows are `*_stride` elements apart. y may be
// x. (Zhang, Sennrich 2019)
struct RmsNormArgs {
  const float* x = nullptr;       // [rows, dim]
  const float* weight = nullptr;  // [dim]
  float* y = nullptr;             // [rows, dim]
  int64_t rows = 0, dim = 0, x_stride = 0, y_stride = 0;
  float eps = 0;
};
void RmsNorm(const CpuContext& context, const RmsNormArgs& args);

// Rotary position embedding, Hugging Face layout (rotates the pairs i, i + dim/2), in place.
//   angle = position * inv_freq[i] (in float64, then cos and sin scaled by `attention_factor`)
struct RopeArgs {
  float* x = nullptr;                  // [rows, heads, head_dim], rows row_stride elements apart
  const int32_t* positions = nullptr;  // [rows]
  const double* inv_freq = nullptr;    // [head_dim / 2]
  int64_t rows = 0, heads = 0, head_dim = 0, row_stride = 0;
  float attention_factor = 1;  // yarn's scaling of cos and sin
};
void Rope(const CpuContext& context, const RopeArgs& args);

// y[r, i] = gate / (1 + exp(-gate)) * up. (Shazeer 2020) gate, up: rows `in_stride` apart; y may be gate or
// up.
struct SwiGluArgs {
  const float* gate = nullptr;
  const float* up = nullptr;
  float* y = nullptr;
  int64_t rows = 0, dim = 0, in_stride = 0, y_stride = 0;
};
void SwiGlu(const CpuContext& context, const SwiGluArgs& args);

// y[i] = table[ids[i]] as fp32. table [vocab, dim] of `dtype`, contiguous; y [rows, dim]. REQUIRES: ids
// within the vocabulary.
struct EmbedArgs {
  const void* table = nullptr;
  DType dtype = DType::kF32;
  const int32_t* ids = nullptr;
  float* y = nullptr;
  int64_t rows = 0, dim = 0;
};
void Embed(const CpuContext& context, const EmbedArgs& args);

// dst[i] = src[i] rounded to dtype (nearest even); count elements.
void ConvertFromF32(const CpuContext& context, const float* src, DType dtype, void* dst, int64_t count);
void ConvertToF32(const CpuContext& context, DType dtype, const void* src, float* dst, int64_t count);
// In place: x[i] = fp32(dtype(x[i])).
void RoundTo(const CpuContext& context, DType dtype, float* x, int64_t count);

}  // namespace lombard
