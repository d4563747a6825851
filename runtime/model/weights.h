// The weights of a model: views into the mapped files, checked against the config.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/dtype.h"
#include "runtime/model/checkpoint.h"
#include "runtime/model/model_config.h"

namespace lombard {

// Row-major [rows, cols] of `dtype`, used in place: y [rows] = W x [cols]. Aligned to its element, to nothing
// more.
struct WeightMatrix {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0, cols = 0;

  int64_t bytes() const { return rows * cols * static_cast<int64_t>(DTypeBytes(dtype)); }
};

// One decoder block. Norms and biases are fp32, whatever the file has.
struct LayerWeights {
  WeightMatrix q, k, v;                                // [heads * head_dim, hidden]
  WeightMatrix o;                                      // [hidden, q_heads * head_dim]
  WeightMatrix gate, up;                               // [intermediate, hidden]
  WeightMatrix down;                                   // [hidden, intermediate]
  std::vector<float> q_bias, k_bias, v_bias, o_bias;   // empty when the architecture has none
  std::vector<float> gate_bias, up_bias, down_bias;    // likewise
  std::vector<float> input_norm, post_attention_norm;  // [hidden]
  std::vector<float> q_norm, k_norm;                   // [head_dim], empty without qk_norm
};

// Owns the mappings. Immutable and thread-safe after Load.
class Model {
 public:
  // Maps and checks; reads norms, biases and a few sample bytes, no matrix. Tensors that the architecture
  // does not know are ignored. Errors name file, tensor, expected and found.
  static absl::StatusOr<std::unique_ptr<Model>> Load(const std::string& model_dir);

  const ModelConfig& config() const { return config_; }
  const WeightMatrix& embedding() const { return embedding_; }  // [vocab, hidden]
  const WeightMatrix& lm_head() const { return lm_head_; }      // [vocab, hidden]; the same bytes when tied
  const LayerWeights& layer(int index) const { return layers_[index]; }
  absl::Span<const float> final_norm() const { return final_norm_; }

  // Of config, tensor names, shapes, dtypes and a sample of the bytes; equal for equal checkpoints however
  // they are sharded. Two ranks with different fingerprints must not lend to each other.
  uint64_t fingerprint() const { return fingerprint_; }
  int64_t weight_bytes() const { return weight_bytes_; }  // of the tensors in use, shared ones once
  int64_t copied_bytes() const {
    return copied_bytes_;
  }  // of matrices whose place in the file is not aligned to the element
  int64_t unused_tensors() const { return unused_tensors_; }  // stored, but not known to the architecture
  const Checkpoint& checkpoint() const { return *checkpoint_; }

 private:
  friend class DummyModelMaker;
  friend class ModelLoader;
  Model() = default;

  ModelConfig config_;
  std::unique_ptr<Checkpoint> checkpoint_;
  WeightMatrix embedding_, lm_head_;
  std::vector<LayerWeights> layers_;
  std::vector<float> final_norm_;
  std::vector<std::unique_ptr<std::byte[]>> copies_;
  uint64_t fingerprint_ = 0;
  int64_t weight_bytes_ = 0, copied_bytes_ = 0, unused_tensors_ = 0;
};

}  // namespace lombard
