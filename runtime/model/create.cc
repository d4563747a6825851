#include "runtime/model/create.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/check.h"
#include "base/file.h"
#include "base/status.h"
#include "base/units.h"
#include "runtime/model/byte_tokenizer.h"
#include "runtime/model/fingerprint.h"
#include "runtime/model/json_text.h"
#include "runtime/model/presets.h"

namespace lombard {
namespace {

constexpr int64_t kShardBytesMax = 5'000'000'000;
constexpr int64_t kChunkElements = 1 << 18;

// Element `i` of a tensor, a function of (key, i) alone: the sum of four uniform 16-bit numbers, which has a
// bell shape of standard deviation 65536 / sqrt(3) and no tails beyond 3.5 of it. Only integers, so every
// machine agrees.
float BellNumber(uint64_t key, uint64_t i) {
  const uint64_t bits = Fingerprint::Mix(key + i * 0x9e3779b97f4a7c15u);
  const int64_t sum = (bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48);
  return static_cast<float>(sum - 2 * 65535);
}

// Standard deviation of a tensor's elements; 0: all ones (norms).
double Spread(const TensorSpec& tensor, const ModelConfig& config) {
  if (absl::EndsWith(tensor.name, ".bias")) return 0.02;
  if (tensor.shape.size() == 1) return 0;
  const double plain = 1 / std::sqrt(static_cast<double>(tensor.shape[1]));
  const bool to_residual =
      absl::StrContains(tensor.name, "o_proj") || absl::StrContains(tensor.name, "down_proj");
  return to_residual ? plain / std::sqrt(2.0 * config.layers) : plain;
}

absl::Status FillTensor(const TensorSpec& tensor, const ModelConfig& config, uint64_t seed,
                        SafetensorsWriter* writer) {
  Fingerprint key;
  key.Add(seed);
  key.Add(tensor.name);
  const double spread = Spread(tensor, config);
  const float scale = static_cast<float>(spread * std::sqrt(3.0) / 65536);
  const int64_t elements = tensor.bytes() / static_cast<int64_t>(DTypeBytes(tensor.dtype));
  std::vector<std::byte> chunk(std::min(elements, kChunkElements) * DTypeBytes(tensor.dtype));
  for (int64_t begin = 0; begin < elements; begin += kChunkElements) {
    const int64_t count = std::min(kChunkElements, elements - begin);
    for (int64_t i = 0; i < count; ++i) {
      StoreFloat(tensor.dtype, chunk.data(), i,
                 spread == 0 ? 1.0f : BellNumber(key.value(), begin + i) * scale);
    }
    RETURN_IF_ERROR(writer->Append(absl::MakeConstSpan(chunk).subspan(0, count * DTypeBytes(tensor.dtype))));
  }
  return absl::OkStatus();
}

// Removes what was written unless told that all went well.
class Undo {
 public:
  ~Undo() {
    std::error_code ignored;
    for (const std::string& file : files_) std::filesystem::remove(file, ignored);
  }
  void Add(const std::string& file) { files_.push_back(file); }
  void Keep() { files_.clear(); }

 private:
  std::vector<std::string> files_;
};

std::vector<std::vector<TensorSpec>> Shards(const std::vector<TensorSpec>& tensors) {
  std::vector<std::vector<TensorSpec>> shards(1);
  int64_t bytes = 0;
  for (const TensorSpec& tensor : tensors) {
    if (bytes > 0 && bytes + tensor.bytes() > kShardBytesMax) shards.emplace_back(), bytes = 0;
    shards.back().push_back(tensor);
    bytes += tensor.bytes();
  }
  return shards;
}

absl::Status WriteWeights(const ModelConfig& config, const std::string& dir, uint64_t seed, Undo* undo) {
  const auto shards = Shards(TensorsOf(config));
  std::string map;
  int64_t bytes = 0;
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name = shards.size() == 1
                                 ? "model.safetensors"
                                 : absl::StrFormat("model-%05d-of-%05d.safetensors", i + 1, shards.size());
    ASSIGN_OR_RETURN(auto writer, SafetensorsWriter::Create(dir + "/" + name, shards[i]));
    for (const TensorSpec& tensor : shards[i]) {
      RETURN_IF_ERROR(FillTensor(tensor, config, seed, writer.get()));
      absl::StrAppend(&map, map.empty() ? "" : ",", "\n    ", JsonQuoted(tensor.name), ": ",
                      JsonQuoted(name));
      bytes += tensor.bytes();
    }
    RETURN_IF_ERROR(writer->Finish());
    undo->Add(dir + "/" + name);
  }
  if (shards.size() == 1) return absl::OkStatus();
  const std::string index = dir + "/model.safetensors.index.json";
  undo->Add(index);
  return WriteSmallFile(index, absl::StrCat("{\n  \"metadata\": {\"total_size\": ", bytes,
                                            "},\n  \"weight_map\": {", map, "\n  }\n}\n"));
}

absl::Status PrepareDirectory(const std::string& dir, int64_t bytes) {
  std::error_code error;
  std::filesystem::create_directories(dir, error);
  if (error) return ErrnoStatus(error.value(), "cannot create directory", dir);
  for (const auto& entry : std::filesystem::directory_iterator(dir, error)) {
    const std::string name = entry.path().filename().string();
    if (name == "config.json" || absl::EndsWith(name, ".safetensors") || name == "tokenizer.json") {
      return absl::AlreadyExistsError(
          absl::StrCat(dir, ": already has ", name, "; choose an empty directory"));
    }
  }
  const auto space = std::filesystem::space(dir, error);
  if (!error && space.available < static_cast<uintmax_t>(bytes)) {
    return absl::ResourceExhaustedError(absl::StrCat(dir, ": needs ", FormatBytes(bytes),
                                                     ", the file system has ", FormatBytes(space.available),
                                                     " free"));
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<std::string> PresetNames() {
  std::vector<std::string> names;
  for (const ModelPreset& preset : Presets()) names.push_back(preset.name);
  return names;
}

std::vector<TensorSpec> TensorsOf(const ModelConfig& c) {
  const int64_t hidden = c.hidden_size, inner = c.intermediate_size, q = int64_t{c.q_heads} * c.head_dim,
                kv = int64_t{c.kv_heads} * c.head_dim;
  std::vector<TensorSpec> tensors = {{"model.embed_tokens.weight", c.dtype, {c.vocab_size, hidden}}};
  const auto add = [&](const std::string& name, std::vector<int64_t> shape) {
    tensors.push_back({name, c.dtype, shape});
  };
  const auto project = [&](const std::string& name, int64_t rows, int64_t cols, bool bias) {
    add(name + ".weight", {rows, cols});
    if (bias) add(name + ".bias", {rows});
  };
  for (int layer = 0; layer < c.layers; ++layer) {
    const std::string p = absl::StrCat("model.layers.", layer, ".");
    add(p + "input_layernorm.weight", {hidden});
    project(p + "self_attn.q_proj", q, hidden, c.qkv_bias);
    project(p + "self_attn.k_proj", kv, hidden, c.qkv_bias);
    project(p + "self_attn.v_proj", kv, hidden, c.qkv_bias);
    project(p + "self_attn.o_proj", hidden, q, c.o_bias);
    if (c.qk_norm) {
      add(p + "self_attn.q_norm.weight", {c.head_dim});
      add(p + "self_attn.k_norm.weight", {c.head_dim});
    }
    add(p + "post_attention_layernorm.weight", {hidden});
    project(p + "mlp.gate_proj", inner, hidden, c.mlp_bias);
    project(p + "mlp.up_proj", inner, hidden, c.mlp_bias);
    project(p + "mlp.down_proj", hidden, inner, c.mlp_bias);
  }
  add("model.norm.weight", {hidden});
  if (!c.tied_embeddings) add("lm_head.weight", {c.vocab_size, hidden});
  return tensors;
}

absl::Status CreateModel(const std::string& preset_name, const std::string& dir, uint64_t seed) {
  const auto presets = Presets();
  const auto preset = std::find_if(presets.begin(), presets.end(),
                                   [&](const ModelPreset& p) { return p.name == preset_name; });
  if (preset == presets.end()) {
    return absl::InvalidArgumentError(absl::StrCat("no preset named \"", preset_name, "\"; there are ",
                                                   absl::StrJoin(PresetNames(), ", ")));
  }
  const std::string config_json = PresetConfigJson(*preset);
  const absl::StatusOr<ModelConfig> config = ParseModelConfig(config_json, "");
  CHECK_OK(config.status());
  int64_t bytes = 1 << 20;  // the JSON files
  for (const TensorSpec& tensor : TensorsOf(*config)) bytes += tensor.bytes();

  RETURN_IF_ERROR(PrepareDirectory(dir, bytes));
  Undo undo;
  RETURN_IF_ERROR(WriteWeights(*config, dir, seed, &undo));
  const ByteTokenizerFiles tokenizer = ByteTokenizer(*preset);
  const std::string bos = preset->bos_id < 0 ? "" : absl::StrCat("\"bos_token_id\": ", preset->bos_id, ", ");
  for (const auto& [name, text] :
       {std::pair<std::string, std::string>{"tokenizer.json", tokenizer.tokenizer_json},
        {"tokenizer_config.json", tokenizer.tokenizer_config_json},
        {"generation_config.json", absl::StrCat("{", bos, "\"eos_token_id\": [", preset->eos_id, "]}\n")},
        {"config.json", config_json}}) {
    undo.Add(dir + "/" + name);
    RETURN_IF_ERROR(WriteSmallFile(dir + "/" + name, text));
  }
  undo.Keep();
  return absl::OkStatus();
}

}  // namespace lombard
