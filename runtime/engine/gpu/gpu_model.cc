#include "runtime/engine/gpu/gpu_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "base/device/gpu_status.h"
#include "base/device/gpu_stream.h"
#include "base/status.h"
#include "kernels/cuda/fill.h"

namespace lombard {
namespace {

constexpr uint64_t kAlignment = 256;          // what cuBLASLt's fastest algorithms want
constexpr uint64_t kStagingBytes = 32 << 20;  // of each of two buffers: one fills while the other leaves

}  // namespace

// Runs over the model twice: to learn the size, then to copy.
class GpuModelLoader {
 public:
  static absl::StatusOr<std::shared_ptr<const GpuModel>> Load(const Model& model, int device) {
    std::shared_ptr<GpuModel> made(new GpuModel);
    made->config_ = &model.config();
    made->device_ = device;
    GpuModelLoader loader(model, made.get());
    RETURN_IF_ERROR(loader.Pass());
    absl::StatusOr<DeviceMemory> memory = DeviceMemory::Create(device, loader.size_);
    if (!memory.ok()) return Annotate(memory.status(), "the weights");
    made->memory_ = *std::move(memory);
    ASSIGN_OR_RETURN(GpuStream stream, GpuStream::Create(device));
    loader.stream_ = &stream;
    const uint64_t staging_bytes = std::min(kStagingBytes, loader.size_);
    for (int i = 0; i < 2; ++i) {
      ASSIGN_OR_RETURN(loader.staging_[i], PinnedMemory::Create(device, staging_bytes));
      ASSIGN_OR_RETURN(GpuEvent event, GpuEvent::Create(device));
      loader.left_.push_back(std::move(event));
    }
    RETURN_IF_ERROR(loader.Pass());
    RETURN_IF_ERROR(stream.Synchronize());
    return made;
  }

 private:
  GpuModelLoader(const Model& model, GpuModel* made) : model_(model), made_(*made) {}

  absl::Status Pass() {
    size_ = 0;
    made_.layers_.assign(model_.config().layers, {});
    RETURN_IF_ERROR(Dense("embedding", {&model_.embedding()}, {}, &made_.embedding_));
    if (model_.lm_head().data == model_.embedding().data &&
        (model_.embedding().data != nullptr || model_.config().tied_embeddings)) {
      made_.lm_head_ = made_.embedding_;
    } else {
      RETURN_IF_ERROR(Dense("lm_head", {&model_.lm_head()}, {}, &made_.lm_head_));
    }
    RETURN_IF_ERROR(Vector<float>(model_.final_norm(), &made_.final_norm_));
    RETURN_IF_ERROR(Vector<double>(model_.config().rope.inv_freq, &made_.inv_freq_));
    for (int i = 0; i < model_.config().layers; ++i) {
      const LayerWeights& from = model_.layer(i);
      GpuLayer& to = made_.layers_[i];
      RETURN_IF_ERROR(
          Dense("q, k, v", {&from.q, &from.k, &from.v}, {&from.q_bias, &from.k_bias, &from.v_bias}, &to.qkv));
      RETURN_IF_ERROR(Dense("o", {&from.o}, {&from.o_bias}, &to.o));
      RETURN_IF_ERROR(
          Dense("gate, up", {&from.gate, &from.up}, {&from.gate_bias, &from.up_bias}, &to.gate_up));
      RETURN_IF_ERROR(Dense("down", {&from.down}, {&from.down_bias}, &to.down));
      RETURN_IF_ERROR(Vector<float>(from.input_norm, &to.input_norm));
      RETURN_IF_ERROR(Vector<float>(from.post_attention_norm, &to.post_attention_norm));
      RETURN_IF_ERROR(Vector<float>(from.q_norm, &to.q_norm));
      RETURN_IF_ERROR(Vector<float>(from.k_norm, &to.k_norm));
    }
    return absl::OkStatus();
  }

  // One matrix of the rows of `parts`; a part without a bias has one of zeros where another has one.
  absl::Status Dense(const char* name, const std::vector<const WeightMatrix*>& parts,
                     const std::vector<const std::vector<float>*>& biases, GpuDense* out) {
    *out = {.data = Next(), .dtype = parts[0]->dtype, .cols = parts[0]->cols};
    for (const WeightMatrix* part : parts) {
      if (part->dtype != out->dtype) {
        return absl::UnimplementedError(
            absl::StrCat("matrices ", name, " of one layer are ", std::string(DTypeName(out->dtype)), " and ",
                         std::string(DTypeName(part->dtype)), ": on GPUs they must have one dtype"));
      }
      CHECK_EQ(part->cols, out->cols);
      out->rows += part->rows;
      if (part->data != nullptr) {
        RETURN_IF_ERROR(Put(part->data, static_cast<uint64_t>(part->bytes())));
      } else {
        RETURN_IF_ERROR(MakeUp(*part));
      }
    }
    Align();
    std::vector<float> bias;
    for (size_t i = 0; i < biases.size(); ++i) {
      bias.resize(bias.size() + parts[i]->rows);
      std::copy(biases[i]->begin(), biases[i]->end(), bias.end() - parts[i]->rows);
    }
    const bool any = std::any_of(biases.begin(), biases.end(), [](const auto* b) { return !b->empty(); });
    return any ? Vector<float>(bias, &out->bias) : absl::OkStatus();
  }

  template <class T>
  absl::Status Vector(absl::Span<const T> values, const T** out) {
    *out = values.empty() ? nullptr : reinterpret_cast<const T*>(Next());
    RETURN_IF_ERROR(Put(values.data(), values.size() * sizeof(T)));
    Align();
    return absl::OkStatus();
  }

  char* Next() const { return stream_ == nullptr ? nullptr : made_.memory_.data<char>() + size_; }
  void Align() { size_ = (size_ + kAlignment - 1) / kAlignment * kAlignment; }

  absl::Status Put(const void* from, uint64_t bytes) {
    char* to = Next();
    size_ += bytes;
    if (stream_ == nullptr) return absl::OkStatus();
    const char* at = static_cast<const char*>(from);
    while (bytes > 0) {
      const uint64_t some = std::min(bytes, staging_[turn_].bytes());
      RETURN_IF_ERROR(left_[turn_].Synchronize());
      std::memcpy(staging_[turn_].data(), at, some);
      RETURN_IF_ERROR(stream_->Copy(to, staging_[turn_].data(), some));
      RETURN_IF_ERROR(stream_->Record(left_[turn_]));
      at += some, to += some, bytes -= some;
      turn_ = 1 - turn_;
    }
    return absl::OkStatus();
  }

  // Of inputs of size 1, results of size 1.
  absl::Status MakeUp(const WeightMatrix& part) {
    char* const to = Next();
    size_ += static_cast<uint64_t>(part.bytes());
    if (stream_ == nullptr) return absl::OkStatus();
    const float scale = std::sqrt(3 / static_cast<float>(part.cols));
    return ToStatus(GpuFillRandom(stream_->ref(), part.dtype, to, part.rows * part.cols, scale, ++made_up_));
  }

  const Model& model_;
  GpuModel& made_;
  uint64_t size_ = 0;
  GpuStream* stream_ = nullptr;  // null: the first pass
  PinnedMemory staging_[2];
  std::vector<GpuEvent> left_;
  int turn_ = 0;
  uint32_t made_up_ = 0;
};

absl::StatusOr<std::shared_ptr<const GpuModel>> GpuModel::Load(const Model& model, int device) {
  return GpuModelLoader::Load(model, device);
}

}  // namespace lombard
