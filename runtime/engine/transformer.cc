#include "runtime/engine/transformer.h"

#include <cstring>

#include "base/check.h"
#include "base/status.h"
#include "kernels/elementwise.h"
#include "kernels/matmul.h"

namespace lombard {
namespace {

// y [rows, w.rows] (+)= x [rows, w.cols] W^T + bias; all contiguous.
void Dense(const CpuContext& context, const float* x, const WeightMatrix& w, const std::vector<float>& bias,
           int64_t rows, float* y, bool accumulate = false) {
  Matmul(context, {.x = x,
                   .w = w.data,
                   .w_dtype = w.dtype,
                   .bias = bias.empty() ? nullptr : bias.data(),
                   .y = y,
                   .rows = rows,
                   .n = w.rows,
                   .k = w.cols,
                   .x_stride = w.cols,
                   .y_stride = w.rows,
                   .accumulate = accumulate});
}

void Norm(const CpuContext& context, const float* x, absl::Span<const float> weight, float eps, int64_t rows,
          float* y) {
  const int64_t dim = static_cast<int64_t>(weight.size());
  RmsNorm(context, {.x = x,
                    .weight = weight.data(),
                    .y = y,
                    .rows = rows,
                    .dim = dim,
                    .x_stride = dim,
                    .y_stride = dim,
                    .eps = eps});
}

}  // namespace

absl::Status Transformer::Forward(const StepInput& input, AttendFunction attend, std::vector<float>* logits) {
  const ModelConfig& config = model_->config();
  const int64_t rows = static_cast<int64_t>(input.tokens.size());
  const int64_t q_width = int64_t{config.q_heads} * config.head_dim,
                kv_width = int64_t{config.kv_heads} * config.head_dim;
  CHECK_EQ(input.positions.size(), input.tokens.size());
  x_.resize(rows * config.hidden_size), normed_.resize(rows * config.hidden_size);
  q_.resize(rows * q_width), k_.resize(rows * kv_width), v_.resize(rows * kv_width),
      attended_.resize(rows * q_width);
  gate_.resize(rows * config.intermediate_size), up_.resize(rows * config.intermediate_size);

  const WeightMatrix& embedding = model_->embedding();
  Embed(context_, {.table = embedding.data,
                   .dtype = embedding.dtype,
                   .ids = input.tokens.data(),
                   .y = x_.data(),
                   .rows = rows,
                   .dim = config.hidden_size});
  for (int layer = 0; layer < config.layers; ++layer) {
    const LayerWeights& w = model_->layer(layer);
    Norm(context_, x_.data(), w.input_norm, config.rms_norm_eps, rows, normed_.data());
    Dense(context_, normed_.data(), w.q, w.q_bias, rows, q_.data());
    Dense(context_, normed_.data(), w.k, w.k_bias, rows, k_.data());
    Dense(context_, normed_.data(), w.v, w.v_bias, rows, v_.data());
    if (config.qk_norm) {  // per head
      Norm(context_, q_.data(), w.q_norm, config.rms_norm_eps, rows * config.q_heads, q_.data());
      Norm(context_, k_.data(), w.k_norm, config.rms_norm_eps, rows * config.kv_heads, k_.data());
    }
    const auto rope = [&](float* x, int64_t heads) {
      Rope(context_, {.x = x,
                      .positions = input.positions.data(),
                      .inv_freq = config.rope.inv_freq.data(),
                      .rows = rows,
                      .heads = heads,
                      .head_dim = config.head_dim,
                      .row_stride = heads * config.head_dim,
                      .attention_factor = config.rope.attention_factor});
    };
    rope(q_.data(), config.q_heads);
    rope(k_.data(), config.kv_heads);
    RETURN_IF_ERROR(attend(layer, q_.data(), k_.data(), v_.data(), attended_.data()));
    Dense(context_, attended_.data(), w.o, w.o_bias, rows, x_.data(), /*accumulate=*/true);

    Norm(context_, x_.data(), w.post_attention_norm, config.rms_norm_eps, rows, normed_.data());
    Dense(context_, normed_.data(), w.gate, w.gate_bias, rows, gate_.data());
    Dense(context_, normed_.data(), w.up, w.up_bias, rows, up_.data());
    SwiGlu(context_, {.gate = gate_.data(),
                      .up = up_.data(),
                      .y = gate_.data(),
                      .rows = rows,
                      .dim = config.intermediate_size,
                      .in_stride = config.intermediate_size,
                      .y_stride = config.intermediate_size});
    Dense(context_, gate_.data(), w.down, w.down_bias, rows, x_.data(), /*accumulate=*/true);
  }

  // Only the rows that are sampled from go through the vocabulary.
  const int64_t wanted = static_cast<int64_t>(input.logit_rows.size());
  for (int64_t i = 0; i < wanted; ++i) {
    std::memcpy(normed_.data() + i * config.hidden_size,
                x_.data() + int64_t{input.logit_rows[i]} * config.hidden_size,
                config.hidden_size * sizeof(float));
  }
  Norm(context_, normed_.data(), model_->final_norm(), config.rms_norm_eps, wanted, normed_.data());
  logits->resize(wanted * config.vocab_size);
  if (wanted > 0) Dense(context_, normed_.data(), model_->lm_head(), {}, wanted, logits->data());
  return absl::OkStatus();
}

}  // namespace lombard
