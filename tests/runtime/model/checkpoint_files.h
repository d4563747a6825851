// Small checkpoints on disk for the tests of this folder: a directory that goes with the test, and files to
// fill it.
#pragma once

#include <stdlib.h>

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/status.h"
#include "runtime/model/safetensors_writer.h"

namespace lombard {

class TempDir {
 public:
  TempDir() {
    std::string pattern = (std::filesystem::temp_directory_path() / "lombard_test_XXXXXX").string();
    CHECK(mkdtemp(pattern.data()) != nullptr) << pattern;
    path_ = pattern;
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }
  std::string File(const std::string& name) const { return path_ + "/" + name; }
  void Write(const std::string& name, const std::string& text) const {
    std::ofstream(File(name), std::ios::binary) << text;
  }
  std::string Read(const std::string& name) const { return ReadPath(File(name)); }
  static std::string ReadPath(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    CHECK(file.good()) << path;
    return {std::istreambuf_iterator<char>(file), {}};
  }

 private:
  std::string path_;
};

// Value of element `i` of tensor `name`: fits every dtype exactly, differs between tensors.
inline float PatternValue(const std::string& name, int64_t i) {
  return static_cast<float>(static_cast<int>((i * 7 + name.size() * 13 + name.back()) % 200) - 100) / 64;
}

inline std::string PatternBytes(const TensorSpec& tensor) {
  std::string bytes(tensor.bytes(), '\0');
  for (int64_t i = 0; i < tensor.bytes() / DTypeBytes(tensor.dtype); ++i) {
    StoreFloat(tensor.dtype, bytes.data(), i, PatternValue(tensor.name, i));
  }
  return bytes;
}

inline void WritePattern(const std::string& path, const std::vector<TensorSpec>& tensors) {
  auto writer = SafetensorsWriter::Create(path, tensors);
  CHECK_OK(writer.status());
  for (const TensorSpec& tensor : tensors) {
    const std::string bytes = PatternBytes(tensor);
    CHECK_OK((*writer)->Append({reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()}));
  }
  CHECK_OK((*writer)->Finish());
}

// A safetensors file from a header text as it stands: for headers that no writer of ours would make.
inline std::string RawSafetensors(const std::string& header, const std::string& data) {
  std::string out;
  for (int i = 0; i < 8; ++i) out += static_cast<char>(header.size() >> (8 * i));
  return out + header + data;
}

// hidden 8, 2 layers, 4 query heads, 2 KV heads, head_dim 4, inner 12, vocab 10.
inline std::string SmallConfig(const std::string& more = "") {
  return absl::StrCat(
      R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4, "intermediate_size": 12, "vocab_size": 10,
    "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "torch_dtype": "float32", "eos_token_id": 2)",
      more.empty() ? "" : ", ", more, "}");
}

inline std::vector<TensorSpec> SmallTensors(DType dtype = DType::kF32) {
  std::vector<TensorSpec> tensors = {{"model.embed_tokens.weight", dtype, {10, 8}},
                                     {"model.norm.weight", dtype, {8}},
                                     {"lm_head.weight", dtype, {10, 8}}};
  for (const char* layer : {"model.layers.0.", "model.layers.1."}) {
    const std::string p = layer;
    for (const TensorSpec& t : std::vector<TensorSpec>{{"self_attn.q_proj.weight", dtype, {16, 8}},
                                                       {"self_attn.k_proj.weight", dtype, {8, 8}},
                                                       {"self_attn.v_proj.weight", dtype, {8, 8}},
                                                       {"self_attn.o_proj.weight", dtype, {8, 16}},
                                                       {"mlp.gate_proj.weight", dtype, {12, 8}},
                                                       {"mlp.up_proj.weight", dtype, {12, 8}},
                                                       {"mlp.down_proj.weight", dtype, {8, 12}},
                                                       {"input_layernorm.weight", dtype, {8}},
                                                       {"post_attention_layernorm.weight", dtype, {8}}}) {
      tensors.push_back({p + t.name, t.dtype, t.shape});
    }
  }
  return tensors;
}

}  // namespace lombard
