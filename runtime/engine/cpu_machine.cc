#include "runtime/engine/cpu_machine.h"

#include <chrono>
#include <cmath>

#include "base/status.h"
#include "distattn/prefix_copy.h"

namespace lombard {

EngineModel DescribeForEngine(const Model& model, const KvLayout& layout) {
  const ModelConfig& config = model.config();
  return {.layer_windows = config.layer_windows,
          .vocab_size = config.vocab_size,
          .eos_token_ids = config.eos_token_ids,
          .fingerprint = model.fingerprint(),
          .kv_format = std::string(DTypeName(layout.dtype)),
          .row_keys = RowKeys(config.q_heads, layout)};
}

AttentionShape ShapeOf(const ModelConfig& config) {
  return {.q_heads = config.q_heads,
          .scale = 1 / std::sqrt(static_cast<float>(config.head_dim)),
          .layer_windows = config.layer_windows};
}

CpuMachine::CpuMachine(const Model* model, const CpuContext& context, const KvStorage* storage,
                       RemoteClient* client)
    : storage_(storage),
      client_(client),
      transformer_(model, context),
      attention_(ShapeOf(model->config()), context, storage, client) {}

absl::StatusOr<StepResult> CpuMachine::Run(const StepWork& work) {
  const auto start = std::chrono::steady_clock::now();
  attention_.Begin(work.step, &work.plan, [&](int layer) {
    for (const KvSend& send : work.sends) client_->SendKv(send, layer);
  });
  StepResult result;
  RETURN_IF_ERROR(transformer_.Forward(
      work.input,
      [this](int layer, float* q, const float* k, const float* v, float* out) {
        return attention_.Attend(layer, q, k, v, out);
      },
      &result.logits));
  result.remote = attention_.has_remote();
  result.attention = attention_.timing();
  result.keys_read = attention_.keys_read();
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

void CpuMachine::Send(const KvSend& send) {
  for (int layer = 0; layer < storage_->layers(); ++layer) client_->SendKv(send, layer);
}

void CpuMachine::Fetch(const KvFetch& fetch) {
  for (int layer = 0; layer < storage_->layers(); ++layer) client_->FetchKv(fetch, layer);
}

}  // namespace lombard
