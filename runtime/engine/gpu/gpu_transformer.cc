#include "runtime/engine/gpu/gpu_transformer.h"

#include <algorithm>

#include "base/check.h"
#include "base/device/gpu_status.h"
#include "base/status.h"
#include "kernels/cuda/embed.h"
#include "kernels/cuda/rms_norm.h"
#include "kernels/cuda/rope_append.h"
#include "kernels/cuda/swiglu.h"

namespace lombard {

absl::Status GpuTransformer::Reserve(int rows, int wanted) {
  if (rows <= rows_max_ && wanted <= wanted_max_) return absl::OkStatus();
  const ModelConfig& config = model_.config();
  rows = std::max(rows, rows_max_), wanted = std::max(wanted, wanted_max_);
  const int64_t q_width = int64_t{config.q_heads} * config.head_dim,
                kv_width = int64_t{config.kv_heads} * config.head_dim, hidden = config.hidden_size,
                inner = config.intermediate_size;
  uint64_t bytes = 0;
  const auto place = [&](int64_t count, int64_t elements) {
    const uint64_t at = bytes;
    bytes += (static_cast<uint64_t>(count * elements) * sizeof(float) + 255) / 256 * 256;
    return at;
  };
  const uint64_t x = place(rows, hidden),
                 wide = place(std::max(rows, wanted), std::max({hidden, q_width + 2 * kv_width, 2 * inner})),
                 narrow = place(std::max(rows, wanted), std::max({hidden, q_width, inner})),
                 q = place(rows, q_width), logits = place(wanted, config.vocab_size);
  scratch_.Reset();
  rows_max_ = wanted_max_ = 0, ++generation_;
  absl::StatusOr<DeviceMemory> scratch = DeviceMemory::Create(model_.device(), bytes);
  if (!scratch.ok()) {
    return Annotate(scratch.status(), absl::StrCat("activations of a step of ", rows,
                                                   " rows (lower --max-batch-tokens or --max-batch-size)"));
  }
  scratch_ = *std::move(scratch);
  char* const base = scratch_.data<char>();
  x_ = reinterpret_cast<float*>(base + x), wide_ = reinterpret_cast<float*>(base + wide);
  narrow_ = base + narrow, q_ = base + q, logits_ = reinterpret_cast<float*>(base + logits);
  rows_max_ = rows, wanted_max_ = wanted;
  return absl::OkStatus();
}

absl::Status GpuTransformer::Dense(const void* x, const GpuDense& w, int64_t rows, float* y,
                                   bool accumulate) {
  GpuMatmulArgs args;
  args.x = x, args.w = w.data, args.dtype = w.dtype, args.bias = w.bias, args.y = y;
  args.rows = rows, args.n = w.rows, args.k = w.cols, args.x_stride = w.cols, args.y_stride = w.rows;
  args.accumulate = accumulate;
  if (blas_ != nullptr && rows > kGpuFewRowsMax) return blas_->Matmul(stream_.ref(), args);
  return ToStatus(GpuMatmul(stream_.ref(), args));
}

absl::Status GpuTransformer::Norm(const float* x, const float* weight, int64_t rows, int64_t dim, void* y,
                                  DType y_dtype) {
  GpuRmsNormArgs args;
  args.x = x, args.weight = weight, args.y = y, args.y_dtype = y_dtype;
  args.rows = rows, args.dim = dim, args.x_stride = dim, args.y_stride = dim;
  args.eps = model_.config().rms_norm_eps;
  return ToStatus(GpuRmsNorm(stream_.ref(), args));
}

// narrow_ to q_ and to the new keys' and values' blocks.
absl::Status GpuTransformer::ProjectAndRotate(int index, const GpuStepInput& input) {
  const GpuLayer& layer = model_.layer(index);
  const ModelConfig& config = model_.config();
  const int64_t rows = input.rows, q_width = int64_t{config.q_heads} * config.head_dim,
                kv_width = int64_t{config.kv_heads} * config.head_dim;
  GpuRopeAppendArgs args;
  if (!config.qk_norm) {
    RETURN_IF_ERROR(Dense(narrow_, layer.qkv, rows, wide_));
    args.q = wide_, args.k = wide_ + q_width, args.v = wide_ + q_width + kv_width;
    args.q_stride = args.k_stride = args.v_stride = q_width + 2 * kv_width;
  } else {  // the norm wants heads one after the other
    float *const q = wide_, *const k = q + rows * q_width, *const v = k + rows * kv_width;
    RETURN_IF_ERROR(Dense(narrow_, layer.qkv.Rows(0, q_width), rows, q));
    RETURN_IF_ERROR(Dense(narrow_, layer.qkv.Rows(q_width, kv_width), rows, k));
    RETURN_IF_ERROR(Dense(narrow_, layer.qkv.Rows(q_width + kv_width, kv_width), rows, v));
    RETURN_IF_ERROR(Norm(q, layer.q_norm, rows * config.q_heads, config.head_dim, q, DType::kF32));
    RETURN_IF_ERROR(Norm(k, layer.k_norm, rows * config.kv_heads, config.head_dim, k, DType::kF32));
    args.q = q, args.k = k, args.v = v;
    args.q_stride = q_width, args.k_stride = args.v_stride = kv_width;
  }
  args.rows = input.rows, args.q_heads = config.q_heads;
  args.positions = input.positions, args.inv_freq = model_.inv_freq();
  args.attention_factor = config.rope.attention_factor;
  args.layout = storage_.layout();
  args.q_out = q_, args.q_dtype = args.layout.dtype, args.q_out_stride = q_width;
  args.k_slab = storage_.k_slab(index), args.v_slab = storage_.v_slab(index);
  args.blocks = input.blocks, args.slots = input.slots;
  return ToStatus(GpuRopeAppend(stream_.ref(), args));
}

absl::Status GpuTransformer::FeedForward(const GpuLayer& layer, int64_t rows) {
  const int64_t hidden = model_.config().hidden_size, inner = model_.config().intermediate_size;
  RETURN_IF_ERROR(Norm(x_, layer.post_attention_norm, rows, hidden, narrow_, layer.gate_up.dtype));
  RETURN_IF_ERROR(Dense(narrow_, layer.gate_up, rows, wide_));
  GpuSwiGluArgs args;
  args.gate = wide_, args.up = wide_ + inner, args.y = narrow_, args.y_dtype = layer.down.dtype;
  args.rows = rows, args.dim = inner, args.in_stride = 2 * inner, args.y_stride = inner;
  RETURN_IF_ERROR(ToStatus(GpuSwiGlu(stream_.ref(), args)));
  return Dense(narrow_, layer.down, rows, x_, /*accumulate=*/true);
}

absl::Status GpuTransformer::Forward(const GpuStepInput& input, GpuAttend attend) {
  CHECK(input.rows <= rows_max_ && input.wanted <= wanted_max_) << input.rows << ", " << input.wanted;
  const ModelConfig& config = model_.config();
  const int64_t hidden = config.hidden_size;
  GpuEmbedArgs embed;
  embed.table = model_.embedding().data, embed.table_dtype = model_.embedding().dtype;
  embed.ids = input.tokens, embed.y = x_, embed.rows = input.rows, embed.dim = hidden;
  RETURN_IF_ERROR(ToStatus(GpuEmbed(stream_.ref(), embed)));
  for (int i = 0; i < config.layers; ++i) {
    const GpuLayer& layer = model_.layer(i);
    RETURN_IF_ERROR(Norm(x_, layer.input_norm, input.rows, hidden, narrow_, layer.qkv.dtype));
    RETURN_IF_ERROR(ProjectAndRotate(i, input));
    RETURN_IF_ERROR(attend(i, q_, narrow_, layer.o.dtype));
    RETURN_IF_ERROR(Dense(narrow_, layer.o, input.rows, x_, /*accumulate=*/true));
    RETURN_IF_ERROR(FeedForward(layer, input.rows));
  }
  if (input.wanted == 0) return absl::OkStatus();
  // Only the rows that are sampled from go through the vocabulary; they are gathered as an embedding's are.
  embed.table = x_, embed.table_dtype = DType::kF32, embed.ids = input.logit_rows, embed.y = wide_;
  embed.rows = input.wanted;
  RETURN_IF_ERROR(ToStatus(GpuEmbed(stream_.ref(), embed)));
  RETURN_IF_ERROR(Norm(wide_, model_.final_norm(), input.wanted, hidden, narrow_, model_.lm_head().dtype));
  return Dense(narrow_, model_.lm_head(), input.wanted, logits_);
}

}  // namespace lombard
