// Transformer's counterpart on a GPU: every layer's dense part, on the step's stream. Attention is a function
// given by the caller.
//
// Numbers are the CPU's: the residual stream, norms, products' results and SwiGLU are fp32; what enters a
// product with 16-bit weights was rounded to their type once, by the kernel that made it. (With fp16 weights
// the CPU does not round: there the GPU differs by half a unit of fp16, and what exceeds 65504 is infinite.)
#pragma once

#include <cstdint>
#include <memory>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "base/device/gpu_memory.h"
#include "base/device/gpu_stream.h"
#include "kernels/cuda/blas.h"
#include "kvpool/gpu_kv_storage.h"
#include "runtime/engine/gpu/gpu_model.h"

namespace lombard {

// Device memory, rows one after the other.
struct GpuStepInput {
  const int32_t* tokens = nullptr;      // [rows]
  const int32_t* positions = nullptr;   // [rows]
  const int32_t* logit_rows = nullptr;  // [wanted]
  const int32_t* blocks = nullptr;      // [rows] where new keys and values go; -1: nowhere
  const int32_t* slots = nullptr;       // [rows]
  int rows = 0, wanted = 0;
};

// q [rows, q_heads, head_dim] of the KV dtype, after rotation, with the layer's K and V appended; fills out,
// alike, of out_dtype.
using GpuAttend = absl::FunctionRef<absl::Status(int layer, const void* q, void* out, DType out_dtype)>;

// One caller at a time; keeps its scratch between steps.
class GpuTransformer {
 public:
  // Nothing is owned. `blas` may be null: then our own kernels do all products.
  GpuTransformer(const GpuModel* model, const GpuKvStorage* storage, GpuBlas* blas, GpuStream* stream)
      : model_(*model), storage_(*storage), blas_(blas), stream_(*stream) {}

  // Room for steps of so many rows, of which `wanted` give logits. kResourceExhausted: there is none.
  absl::Status Reserve(int rows, int wanted);
  // Enqueues a step. logits(): [wanted, vocab_size] fp32, once the stream has passed. Errors are attend's and
  // the device's.
  absl::Status Forward(const GpuStepInput& input, GpuAttend attend);
  float* logits() const { return logits_; }
  // What memory was taken for.
  int rows_max() const { return rows_max_; }
  int wanted_max() const { return wanted_max_; }
  // Grows when it is taken anew, and graphs of Forward are of no use any more.
  int generation() const { return generation_; }
  uint64_t device_bytes() const { return scratch_.bytes(); }

 private:
  // y [rows, w.rows] (+)= x W^T + bias; all contiguous.
  absl::Status Dense(const void* x, const GpuDense& w, int64_t rows, float* y, bool accumulate = false);
  // y = the norm of x [rows, dim], contiguous.
  absl::Status Norm(const float* x, const float* weight, int64_t rows, int64_t dim, void* y, DType y_dtype);
  absl::Status ProjectAndRotate(int layer, const GpuStepInput& input);
  absl::Status FeedForward(const GpuLayer& layer, int64_t rows);

  const GpuModel& model_;
  const GpuKvStorage& storage_;
  GpuBlas* const blas_;
  GpuStream& stream_;

  DeviceMemory scratch_;
  int rows_max_ = 0, wanted_max_ = 0, generation_ = 0;
  // In scratch_. `narrow_` has what enters a product, of its weights' type.
  float *x_ = nullptr, *wide_ = nullptr, *logits_ = nullptr;
  char *narrow_ = nullptr, *q_ = nullptr;
};

}  // namespace lombard
