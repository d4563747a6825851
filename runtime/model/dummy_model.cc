#include "runtime/model/dummy_model.h"

#include "base/status.h"
#include "runtime/model/fingerprint.h"

namespace lombard {

class DummyModelMaker {
 public:
  static absl::StatusOr<std::unique_ptr<Model>> Make(const std::string& model_dir) {
    std::unique_ptr<Model> model(new Model);
    ASSIGN_OR_RETURN(model->config_, LoadModelConfig(model_dir));
    const ModelConfig& c = model->config_;
    const int64_t hidden = c.hidden_size, inner = c.intermediate_size;
    const int64_t q = int64_t{c.q_heads} * c.head_dim, kv = int64_t{c.kv_heads} * c.head_dim;
    const auto matrix = [&](int64_t rows, int64_t cols) {
      const WeightMatrix made{.data = nullptr, .dtype = c.dtype, .rows = rows, .cols = cols};
      model->weight_bytes_ += made.bytes();
      return made;
    };
    const auto zeros = [](bool there, int64_t size) { return std::vector<float>(there ? size : 0, 0.0f); };
    const auto ones = [](bool there, int64_t size) { return std::vector<float>(there ? size : 0, 1.0f); };
    model->embedding_ = matrix(c.vocab_size, hidden);
    model->lm_head_ = c.tied_embeddings ? model->embedding_ : matrix(c.vocab_size, hidden);
    model->final_norm_ = ones(true, hidden);
    for (int i = 0; i < c.layers; ++i) {
      LayerWeights& layer = model->layers_.emplace_back();
      layer.q = matrix(q, hidden), layer.k = matrix(kv, hidden), layer.v = matrix(kv, hidden);
      layer.o = matrix(hidden, q);
      layer.gate = matrix(inner, hidden), layer.up = matrix(inner, hidden),
      layer.down = matrix(hidden, inner);
      layer.q_bias = zeros(c.qkv_bias, q), layer.k_bias = zeros(c.qkv_bias, kv);
      layer.v_bias = zeros(c.qkv_bias, kv), layer.o_bias = zeros(c.o_bias, hidden);
      layer.gate_bias = layer.up_bias = zeros(c.mlp_bias, inner), layer.down_bias = zeros(c.mlp_bias, hidden);
      layer.input_norm = layer.post_attention_norm = ones(true, hidden);
      layer.q_norm = layer.k_norm = ones(c.qk_norm, c.head_dim);
    }
    Fingerprint hash;
    hash.Add("dummy");
    for (const int value : {c.hidden_size, c.layers, c.q_heads, c.kv_heads, c.head_dim, c.intermediate_size,
                            c.vocab_size, static_cast<int>(c.dtype)}) {
      hash.Add(value);
    }
    model->fingerprint_ = hash.value();
    return model;
  }
};

absl::StatusOr<std::unique_ptr<Model>> MakeDummyModel(const std::string& model_dir) {
  return DummyModelMaker::Make(model_dir);
}

}  // namespace lombard
