#include "runtime/model/weights.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "absl/strings/str_join.h"
#include "base/status.h"
#include "runtime/model/fingerprint.h"

namespace lombard {
namespace {

absl::StatusOr<DType> WeightDType(const StoredTensor& tensor) {
  const std::string& name = tensor.info.dtype;
  if (name == "F32") return DType::kF32;
  if (name == "F16") return DType::kF16;
  if (name == "BF16") return DType::kBF16;
  return absl::UnimplementedError(absl::StrCat(tensor.file->path(), ": tensor ", tensor.info.name,
                                               ": expected dtype F32, F16 or BF16, found ", name));
}

// Little-endian view of a few bytes; samples are hashed as numbers.
uint64_t Sample(const std::byte* data, uint64_t bytes) {
  uint64_t value = 0;
  for (uint64_t i = 0; i < bytes; ++i) value |= static_cast<uint64_t>(data[i]) << (8 * i);
  return value;
}

}  // namespace

// Takes tensors out of the checkpoint in one fixed order, and hashes each as it goes.
class ModelLoader {
 public:
  static absl::StatusOr<std::unique_ptr<Model>> Load(const std::string& model_dir) {
    std::unique_ptr<Model> model(new Model);
    ASSIGN_OR_RETURN(model->config_, LoadModelConfig(model_dir));
    ASSIGN_OR_RETURN(model->checkpoint_, Checkpoint::Open(model_dir));
    ModelLoader loader(model.get());
    loader.HashConfig();
    RETURN_IF_ERROR(loader.TakeEnds());
    for (int i = 0; i < model->config_.layers; ++i) RETURN_IF_ERROR(loader.TakeLayer(i));
    model->config_.dtype = model->layers_[0].q.dtype;
    model->fingerprint_ = loader.hash_.value();
    model->unused_tensors_ = static_cast<int64_t>(model->checkpoint_->tensor_count()) - loader.taken_;
    return model;
  }

 private:
  explicit ModelLoader(Model* model)
      : model_(*model), config_(model->config_), checkpoint_(*model->checkpoint_) {}

  void HashConfig() {
    const ModelConfig& c = config_;
    hash_.Add(static_cast<uint64_t>(c.architecture));
    for (const int value : {c.hidden_size, c.layers, c.q_heads, c.kv_heads, c.head_dim, c.intermediate_size,
                            c.vocab_size, c.max_position_embeddings, int{c.tied_embeddings}}) {
      hash_.Add(value);
    }
    hash_.Add(std::bit_cast<uint32_t>(c.rms_norm_eps));
    for (const int window : c.layer_windows) hash_.Add(window);
    // To fp32, so that two mathematics libraries that differ in the last bit of a power still agree.
    for (const double freq : c.rope.inv_freq) hash_.Add(std::bit_cast<uint32_t>(static_cast<float>(freq)));
    hash_.Add(std::bit_cast<uint32_t>(c.rope.attention_factor));
  }

  void HashTensor(const StoredTensor& tensor) {
    constexpr uint64_t kSamples = 16;
    hash_.Add(tensor.info.name);
    hash_.Add(tensor.info.dtype);
    for (const int64_t dim : tensor.info.shape) hash_.Add(dim);
    const uint64_t bytes = tensor.info.end - tensor.info.begin;
    for (uint64_t i = 0; i < kSamples && bytes > 0; ++i) {
      const uint64_t place =
          bytes <= 8 ? 0 : (bytes - 8) * i / (kSamples - 1);  // the first and the last bytes included
      hash_.Add(Sample(tensor.data() + place, std::min<uint64_t>(8, bytes)));
    }
  }

  absl::StatusOr<const StoredTensor*> Take(const std::string& name, const std::vector<int64_t>& shape) {
    const StoredTensor* tensor = checkpoint_.Find(name);
    if (tensor == nullptr) return checkpoint_.Missing(name);
    if (tensor->info.shape != shape) {
      return absl::InvalidArgumentError(absl::StrCat(tensor->file->path(), ": tensor ", name,
                                                     ": expected shape [", absl::StrJoin(shape, ", "),
                                                     "], found ", tensor->info.ShapeText()));
    }
    RETURN_IF_ERROR(WeightDType(*tensor).status());
    HashTensor(*tensor);
    ++taken_;
    model_.weight_bytes_ += tensor->info.end - tensor->info.begin;
    return tensor;
  }

  absl::Status Matrix(const std::string& name, int64_t rows, int64_t cols, WeightMatrix* out) {
    ASSIGN_OR_RETURN(const StoredTensor* tensor, Take(name, {rows, cols}));
    ASSIGN_OR_RETURN(const DType dtype, WeightDType(*tensor));
    *out = {.data = tensor->data(), .dtype = dtype, .rows = rows, .cols = cols};
    if (reinterpret_cast<uintptr_t>(out->data) % DTypeBytes(dtype) != 0) {
      // Old writers did not pad the header, so every element may straddle its natural boundary. Kernels want
      // aligned ones.
      auto copy = std::make_unique<std::byte[]>(out->bytes());
      std::memcpy(copy.get(), out->data, out->bytes());
      out->data = copy.get();
      model_.copied_bytes_ += out->bytes();
      model_.copies_.push_back(std::move(copy));
    }
    return absl::OkStatus();
  }

  absl::Status Vector(const std::string& name, int64_t size, std::vector<float>* out) {
    ASSIGN_OR_RETURN(const StoredTensor* tensor, Take(name, {size}));
    ASSIGN_OR_RETURN(const DType dtype, WeightDType(*tensor));
    std::vector<std::byte> aligned(size * DTypeBytes(dtype));
    std::memcpy(aligned.data(), tensor->data(), aligned.size());
    out->resize(size);
    for (int64_t i = 0; i < size; ++i) (*out)[i] = LoadFloat(dtype, aligned.data(), i);
    return absl::OkStatus();
  }

  // Embedding, output matrix, final norm. Tied checkpoints store either one of the two matrices, or both:
  // then the stored output matrix counts, unless it is the same bytes and one copy will do.
  absl::Status TakeEnds() {
    const std::string embedding = "model.embed_tokens.weight", head = "lm_head.weight";
    const int64_t vocab = config_.vocab_size, hidden = config_.hidden_size;
    const bool has_embedding = checkpoint_.Find(embedding) != nullptr,
               has_head = checkpoint_.Find(head) != nullptr;
    if (config_.tied_embeddings && has_head && !has_embedding) {
      RETURN_IF_ERROR(Matrix(head, vocab, hidden, &model_.embedding_));
    } else {
      RETURN_IF_ERROR(Matrix(embedding, vocab, hidden, &model_.embedding_));
    }
    model_.lm_head_ = model_.embedding_;
    if (!config_.tied_embeddings && !has_head) {
      return Annotate(checkpoint_.Missing(head),
                      "tie_word_embeddings is false in config.json, so the output matrix must be stored");
    }
    if (has_head && has_embedding) {
      WeightMatrix stored;
      const int64_t before = model_.weight_bytes_;
      RETURN_IF_ERROR(Matrix(head, vocab, hidden, &stored));
      if (config_.tied_embeddings && stored.dtype == model_.embedding_.dtype &&
          std::memcmp(stored.data, model_.embedding_.data, stored.bytes()) == 0) {
        model_.weight_bytes_ = before;
      } else {
        model_.lm_head_ = stored;
      }
    }
    return Vector("model.norm.weight", hidden, &model_.final_norm_);
  }

  absl::Status TakeLayer(int index) {
    const ModelConfig& c = config_;
    const int64_t hidden = c.hidden_size, inner = c.intermediate_size;
    const int64_t q = int64_t{c.q_heads} * c.head_dim, kv = int64_t{c.kv_heads} * c.head_dim;
    const std::string prefix = absl::StrCat("model.layers.", index, ".");
    const std::string attention = prefix + "self_attn.", mlp = prefix + "mlp.";
    LayerWeights& layer = model_.layers_.emplace_back();

    RETURN_IF_ERROR(Matrix(attention + "q_proj.weight", q, hidden, &layer.q));
    RETURN_IF_ERROR(Matrix(attention + "k_proj.weight", kv, hidden, &layer.k));
    RETURN_IF_ERROR(Matrix(attention + "v_proj.weight", kv, hidden, &layer.v));
    RETURN_IF_ERROR(Matrix(attention + "o_proj.weight", hidden, q, &layer.o));
    RETURN_IF_ERROR(Matrix(mlp + "gate_proj.weight", inner, hidden, &layer.gate));
    RETURN_IF_ERROR(Matrix(mlp + "up_proj.weight", inner, hidden, &layer.up));
    RETURN_IF_ERROR(Matrix(mlp + "down_proj.weight", hidden, inner, &layer.down));
    RETURN_IF_ERROR(Vector(prefix + "input_layernorm.weight", hidden, &layer.input_norm));
    RETURN_IF_ERROR(Vector(prefix + "post_attention_layernorm.weight", hidden, &layer.post_attention_norm));
    if (c.qkv_bias) {
      RETURN_IF_ERROR(Vector(attention + "q_proj.bias", q, &layer.q_bias));
      RETURN_IF_ERROR(Vector(attention + "k_proj.bias", kv, &layer.k_bias));
      RETURN_IF_ERROR(Vector(attention + "v_proj.bias", kv, &layer.v_bias));
    }
    if (c.o_bias) RETURN_IF_ERROR(Vector(attention + "o_proj.bias", hidden, &layer.o_bias));
    if (c.mlp_bias) {
      RETURN_IF_ERROR(Vector(mlp + "gate_proj.bias", inner, &layer.gate_bias));
      RETURN_IF_ERROR(Vector(mlp + "up_proj.bias", inner, &layer.up_bias));
      RETURN_IF_ERROR(Vector(mlp + "down_proj.bias", hidden, &layer.down_bias));
    }
    if (c.qk_norm) {
      RETURN_IF_ERROR(Vector(attention + "q_norm.weight", c.head_dim, &layer.q_norm));
      RETURN_IF_ERROR(Vector(attention + "k_norm.weight", c.head_dim, &layer.k_norm));
    }
    return absl::OkStatus();
  }

  Model& model_;
  const ModelConfig& config_;
  const Checkpoint& checkpoint_;
  Fingerprint hash_;
  int64_t taken_ = 0;
};

absl::StatusOr<std::unique_ptr<Model>> Model::Load(const std::string& model_dir) {
  return ModelLoader::Load(model_dir);
}

}  // namespace lombard
