// Runs an engine's steps on a GPU: one stream, one copy of the step's arrays there, one of its results back.
// The layers of a step of which every row is sampled and nothing is lent are one graph (gpu_step_graphs.h);
// choosing tokens is not part of it. KV of full blocks leaves for loans layer by layer, while later layers
// are computed.
//
// Belongs to the step thread.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "distattn/gpu_step_attention.h"
#include "distattn/remote_client.h"
#include "runtime/engine/gpu/gpu_sampler.h"
#include "runtime/engine/gpu/gpu_step_graphs.h"
#include "runtime/engine/gpu/gpu_transformer.h"
#include "runtime/engine/machine.h"

namespace lombard {

class GpuMachine final : public Machine {
 public:
  // `model` and `storage` are of the same device. Nothing is owned but the model is kept; all outlive this.
  // `client` may be null where nothing is lent.
  // `graphs_max`: so many graphs of decode steps are kept; 0: none is made. `exchanger` may be null.
  static absl::StatusOr<std::unique_ptr<GpuMachine>> Create(std::shared_ptr<const GpuModel> model,
                                                            const GpuKvStorage* storage, RemoteClient* client,
                                                            size_t graphs_max = kGpuGraphsMax,
                                                            GpuExchanger* exchanger = nullptr);

  ~GpuMachine() override;

  // Room for steps of so many rows, of which `wanted` give logits, so that none allocates later but for
  // states of partial attention of contexts that are cut into many parts. kResourceExhausted: there is none.
  absl::Status Reserve(int rows, int wanted);
  // Why products of many rows run on our own kernels, slowly; empty when cuBLASLt does them.
  const std::string& remark() const { return remark_; }
  // Device memory taken by now, without exchanges between GPUs, graphs and what libraries take inside.
  uint64_t device_bytes() const;

  absl::StatusOr<StepResult> Run(const StepWork& work) override;
  absl::Status broken() const override { return broken_; }

  void Send(const KvSend& send) override;
  void Fetch(const KvFetch& fetch) override;
  KvTransfer transfer(uint64_t id) override { return client_->transfer(id); }
  void ForgetTransfer(uint64_t id) override { client_->ForgetTransfer(id); }
  void Copy(BlockId from, BlockId to) override { storage_->Copy(from, to); }
  void Poison(BlockId id) override { storage_->Poison(id); }

 private:
  GpuMachine(std::shared_ptr<const GpuModel> model, const GpuKvStorage* storage, RemoteClient* client,
             std::unique_ptr<GpuStream> stream, std::unique_ptr<GpuBlas> blas, size_t graphs_max);
  // So many rows a decode step is filled up to, for a graph; 0: as it is.
  int RowsForGraph(const StepWork& work) const;
  absl::Status Enqueue(const StepWork& work);
  // Each layer's bytes as soon as the stream has stored them. Failures show in the transfers.
  absl::Status SendStored(const std::vector<KvSend>& sends);

  const std::shared_ptr<const GpuModel> model_;
  const GpuKvStorage* const storage_;
  RemoteClient* const client_;
  GpuTables tables_;
  GpuSampler sampler_;
  const std::unique_ptr<GpuBlas> blas_;
  std::unique_ptr<GpuStream> stream_;
  GpuTransformer transformer_;
  std::unique_ptr<GpuStepAttention> attention_;
  GpuStepGraphs graphs_;
  std::vector<GpuEvent> stored_;  // [layers] the step's KV of the layer is; recorded where something is sent
  std::string remark_;
  absl::Status broken_;
};

}  // namespace lombard
