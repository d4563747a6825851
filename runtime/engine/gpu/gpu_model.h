// A model's weights in a GPU's memory, as its kernels want them: matrices that read the same input lie one
// after the other and are one product.
#pragma once

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "base/device/gpu_memory.h"
#include "runtime/model/weights.h"

namespace lombard {

// Row-major [rows, cols] of dtype, and a bias [rows] or null. Device memory, 256-byte aligned.
struct GpuDense {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0, cols = 0;
  const float* bias = nullptr;

  // Rows first .. first + count.
  GpuDense Rows(int64_t first, int64_t count) const {
    return {static_cast<const char*>(data) + first * cols * static_cast<int64_t>(DTypeBytes(dtype)), dtype,
            count, cols, bias == nullptr ? nullptr : bias + first};
  }
};

struct GpuLayer {
  GpuDense qkv;  // the rows of q, then k, then v
  GpuDense o;
  GpuDense gate_up;  // the rows of gate, then up
  GpuDense down;
  const float* input_norm = nullptr;
  const float* post_attention_norm = nullptr;
  const float* q_norm = nullptr;  // null without qk_norm
  const float* k_norm = nullptr;
};

// Immutable; several workers of a process may share one.
class GpuModel {
 public:
  // Copies the weights to the device, through pinned memory; matrices without data (dummy_model.h) are made
  // up there. `model` is needed no longer than this runs, but for config(), whose owner must outlive this.
  // kResourceExhausted: the device has no room for them, with both sizes; kUnimplemented: matrices of one
  // product have several dtypes.
  static absl::StatusOr<std::shared_ptr<const GpuModel>> Load(const Model& model, int device);

  const ModelConfig& config() const { return *config_; }
  int device() const { return device_; }
  const GpuDense& embedding() const { return embedding_; }
  const GpuDense& lm_head() const { return lm_head_; }
  const GpuLayer& layer(int index) const { return layers_[index]; }
  const float* final_norm() const { return final_norm_; }
  const double* inv_freq() const { return inv_freq_; }
  uint64_t bytes() const { return memory_.bytes(); }

 private:
  friend class GpuModelLoader;
  GpuModel() = default;

  const ModelConfig* config_ = nullptr;
  int device_ = 0;
  DeviceMemory memory_;
  GpuDense embedding_, lm_head_;
  std::vector<GpuLayer> layers_;
  const float* final_norm_ = nullptr;
  const double* inv_freq_ = nullptr;
};

}  // namespace lombard
