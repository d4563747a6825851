#include "runtime/model/inspect.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "base/units.h"
#include "runtime/model/create.h"
#include "runtime/model/weights.h"

namespace lombard {
namespace {

std::string AttentionKind(const ModelConfig& c) {
  if (c.kv_heads == c.q_heads) return "multi-head";
  if (c.kv_heads == 1) return "multi-query";
  return absl::StrCat("grouped, ", c.q_heads / c.kv_heads, " query heads per KV head");
}

std::string Windows(const ModelConfig& c) {
  const int64_t sliding =
      std::count_if(c.layer_windows.begin(), c.layer_windows.end(), [](int w) { return w > 0; });
  if (sliding == 0) return "full attention in all layers";
  const int window = *std::max_element(c.layer_windows.begin(), c.layer_windows.end());
  return absl::StrCat("sliding window of ", window, " tokens in ", sliding, " of ", c.layers, " layers");
}

std::string Extras(const ModelConfig& c) {
  std::vector<std::string> parts;
  if (c.qkv_bias) parts.push_back("q/k/v biases");
  if (c.o_bias) parts.push_back("o bias");
  if (c.mlp_bias) parts.push_back("MLP biases");
  if (c.qk_norm) parts.push_back("q/k norm");
  return parts.empty() ? "none" : absl::StrJoin(parts, ", ");
}

}  // namespace

absl::StatusOr<std::string> InspectModel(const std::string& model_dir) {
  ASSIGN_OR_RETURN(const auto model, Model::Load(model_dir));
  const ModelConfig& c = model->config();
  const std::vector<TensorSpec> tensors = TensorsOf(c);
  int64_t parameters = 0;
  for (const TensorSpec& tensor : tensors)
    parameters += tensor.bytes() / static_cast<int64_t>(DTypeBytes(tensor.dtype));

  std::string out;
  const auto line = [&](const char* name, const std::string& value) {
    absl::StrAppendFormat(&out, "%-14s %s\n", name, value);
  };
  line("architecture", c.architecture_name);
  line("shape", absl::StrFormat("%d layers, hidden %d, MLP %d, vocabulary %d", c.layers, c.hidden_size,
                                c.intermediate_size, c.vocab_size));
  line("attention", absl::StrFormat("%d query heads, %d KV heads of %d (%s); %s", c.q_heads, c.kv_heads,
                                    c.head_dim, AttentionKind(c), Windows(c)));
  line("extras", Extras(c));
  line("context", absl::StrCat(c.max_position_embeddings, " tokens"));
  line("embeddings",
       model->lm_head().data == model->embedding().data ? "tied" : "separate input and output matrices");
  line("parameters", absl::StrFormat("%d (%.3g billion)", parameters, static_cast<double>(parameters) / 1e9));
  line("weights", absl::StrFormat("%d bytes (%s), %s, %d file%s", model->weight_bytes(),
                                  FormatBytes(model->weight_bytes()), std::string(DTypeName(c.dtype)),
                                  model->checkpoint().files().size(),
                                  model->checkpoint().files().size() == 1 ? "" : "s"));
  if (model->copied_bytes() > 0)
    line("copied", absl::StrCat(FormatBytes(model->copied_bytes()), " at unaligned places of the file"));
  if (model->unused_tensors() > 0)
    line("not used", absl::StrCat(model->unused_tensors(), " tensors that the architecture does not have"));
  for (const DType kv : {DType::kBF16, DType::kF32}) {
    line(kv == DType::kBF16 ? "KV per token" : "",
         absl::StrFormat("%d bytes (%s) as %s", c.KvBytesPerToken(kv), FormatBytes(c.KvBytesPerToken(kv)),
                         std::string(DTypeName(kv))));
  }
  line("stop ids", c.eos_token_ids.empty() ? "none" : absl::StrJoin(c.eos_token_ids, ", "));
  line("fingerprint", absl::StrFormat("%016x", model->fingerprint()));
  return out;
}

}  // namespace lombard
