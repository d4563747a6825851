#include "runtime/engine/gpu/gpu_machine.h"

#include <algorithm>
#include <chrono>
#include <numeric>

#include "base/check.h"
#include "base/status.h"
#include "runtime/engine/cpu_machine.h"

namespace lombard {

absl::StatusOr<std::unique_ptr<GpuMachine>> GpuMachine::Create(std::shared_ptr<const GpuModel> model,
                                                               const GpuKvStorage* storage,
                                                               RemoteClient* client, size_t graphs_max,
                                                               GpuExchanger* exchanger) {
  ASSIGN_OR_RETURN(GpuStream created, GpuStream::Create(model->device()));
  auto stream = std::make_unique<GpuStream>(std::move(created));
  absl::StatusOr<std::unique_ptr<GpuBlas>> blas = GpuBlas::Create(model->device());
  const AttentionShape shape = ShapeOf(model->config());
  ASSIGN_OR_RETURN(auto attention, GpuStepAttention::Create(shape, storage, client, stream.get(), exchanger));
  const std::string remark(blas.ok() ? "" : blas.status().message());
  std::unique_ptr<GpuMachine> machine(new GpuMachine(std::move(model), storage, client, std::move(stream),
                                                     blas.ok() ? *std::move(blas) : nullptr, graphs_max));
  machine->attention_ = std::move(attention);
  for (int layer = 0; layer < storage->layers(); ++layer) {
    ASSIGN_OR_RETURN(GpuEvent event, GpuEvent::Create(machine->stream_->device()));
    machine->stored_.push_back(std::move(event));
  }
  machine->remark_ = remark;
  return machine;
}

GpuMachine::GpuMachine(std::shared_ptr<const GpuModel> model, const GpuKvStorage* storage,
                       RemoteClient* client, std::unique_ptr<GpuStream> stream, std::unique_ptr<GpuBlas> blas,
                       size_t graphs_max)
    : model_(std::move(model)),
      storage_(storage),
      client_(client),
      sampler_(model_->config().vocab_size, model_->config().eos_token_ids),
      blas_(std::move(blas)),
      stream_(std::move(stream)),
      transformer_(model_.get(), storage_, blas_.get(), stream_.get()),
      graphs_(graphs_max) {}

GpuMachine::~GpuMachine() { stream_->Synchronize().IgnoreError(); }

absl::Status GpuMachine::Reserve(int rows, int wanted) {
  RETURN_IF_ERROR(transformer_.Reserve(rows, wanted));
  RETURN_IF_ERROR(attention_->Reserve(rows, wanted));
  return sampler_.Reserve(model_->device(), wanted);
}

uint64_t GpuMachine::device_bytes() const {
  return tables_.device_bytes() + sampler_.device_bytes() + transformer_.device_bytes() +
         attention_->device_bytes() + (blas_ != nullptr ? GpuBlas::kWorkspaceBytes : 0);
}

int GpuMachine::RowsForGraph(const StepWork& work) const {
  const int rows = static_cast<int>(work.input.tokens.size());
  if (!graphs_.on() || rows == 0 || rows != work.input.logit_rows.size() || !work.sends.empty()) return 0;
  return PaddedRows(rows, std::min(transformer_.rows_max(), transformer_.wanted_max()));
}

absl::Status GpuMachine::Enqueue(const StepWork& work) {
  const StepInput& input = work.input;
  const int rows = static_cast<int>(input.tokens.size()), wanted = static_cast<int>(input.logit_rows.size());
  CHECK_EQ(rows, work.plan.rows());
  CHECK_EQ(input.sampling.size(), input.logit_rows.size());
  RETURN_IF_ERROR(Reserve(rows, wanted));
  RETURN_IF_ERROR(attention_->Begin(work.step, &work.plan, RowsForGraph(work)));
  const std::optional<GpuStepShape>& shape = attention_->padded_shape();
  std::vector<int32_t> all_tokens = input.tokens, all_logit_rows = input.logit_rows;
  all_tokens.resize(attention_->rows(), 0);
  if (shape.has_value()) {
    all_logit_rows.resize(attention_->rows());
    std::iota(all_logit_rows.begin(), all_logit_rows.end(), 0);
  }
  tables_.Clear();
  const auto tokens = tables_.Add<int32_t>(all_tokens), logit_rows = tables_.Add<int32_t>(all_logit_rows);
  attention_->AddTables(&tables_);
  sampler_.Begin(input.sampling, &tables_);
  RETURN_IF_ERROR(tables_.Send(*stream_));
  const auto forward = [&] {
    return transformer_.Forward({.tokens = tables_.At(tokens),
                                 .positions = attention_->positions(),
                                 .logit_rows = tables_.At(logit_rows),
                                 .blocks = attention_->blocks(),
                                 .slots = attention_->slots(),
                                 .rows = attention_->rows(),
                                 .wanted = static_cast<int>(all_logit_rows.size())},
                                [&](int layer, const void* q, void* out, DType out_dtype) -> absl::Status {
                                  if (!work.sends.empty()) RETURN_IF_ERROR(stream_->Record(stored_[layer]));
                                  return attention_->Attend(layer, q, out, out_dtype);
                                });
  };
  if (!shape.has_value()) {
    RETURN_IF_ERROR(forward());
  } else {
    const GpuStepGraphs::Key key{*shape, tables_.At(tokens), attention_->generation(),
                                 transformer_.generation()};
    RETURN_IF_ERROR(graphs_.Run(key, *stream_, forward));
  }
  return sampler_.Enqueue(*stream_, transformer_.logits(), tables_);
}

absl::StatusOr<StepResult> GpuMachine::Run(const StepWork& work) {
  RETURN_IF_ERROR(broken_);
  const auto start = std::chrono::steady_clock::now();
  const absl::Status enqueued = Enqueue(work);
  // While the layers run. An abandoned step's KV is not sent.
  if (enqueued.ok()) SendStored(work.sends).IgnoreError();  // the stream's error comes again below
  // Also of an abandoned step: the next one writes the same arrays.
  const absl::Status exchanged = attention_->End();
  if (absl::IsDeadlineExceeded(exchanged)) return broken_ = exchanged;  // the GPU hangs
  absl::Status status = stream_->Synchronize();
  if (!exchanged.ok() && !absl::IsUnavailable(exchanged)) status.Update(exchanged);
  if (!status.ok() || (!enqueued.ok() && !attention_->peers_failed())) {
    broken_ = enqueued.ok() ? status : enqueued;
    return broken_;
  }
  RETURN_IF_ERROR(enqueued);
  RETURN_IF_ERROR(exchanged);
  StepResult result;
  sampler_.Take(&result);
  result.remote = attention_->has_remote();
  ASSIGN_OR_RETURN(result.attention, attention_->Timing());
  result.keys_read = attention_->keys_read();
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

absl::Status GpuMachine::SendStored(const std::vector<KvSend>& sends) {
  for (int layer = 0; layer < storage_->layers() && !sends.empty(); ++layer) {
    RETURN_IF_ERROR(attention_->Wait(stored_[layer]));
    for (const KvSend& send : sends) client_->SendKv(send, layer);
  }
  return absl::OkStatus();
}

void GpuMachine::Send(const KvSend& send) {
  for (int layer = 0; layer < storage_->layers(); ++layer) client_->SendKv(send, layer);
}

void GpuMachine::Fetch(const KvFetch& fetch) {
  for (int layer = 0; layer < storage_->layers(); ++layer) client_->FetchKv(fetch, layer);
}

}  // namespace lombard
