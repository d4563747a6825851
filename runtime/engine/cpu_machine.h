// Runs an engine's steps on this worker's CPUs: the model's weights, the KV storage and the client of remote
// attention.
//
// Belongs to the step thread.
#pragma once

#include "distattn/remote_client.h"
#include "distattn/step_attention.h"
#include "runtime/engine/engine.h"
#include "runtime/engine/machine.h"
#include "runtime/engine/transformer.h"

namespace lombard {

EngineModel DescribeForEngine(const Model& model, const KvLayout& layout);
AttentionShape ShapeOf(const ModelConfig& config);

class CpuMachine final : public Machine {
 public:
  // Nothing is owned; all outlive this. `client` may be null where nothing is lent.
  CpuMachine(const Model* model, const CpuContext& context, const KvStorage* storage, RemoteClient* client);

  absl::StatusOr<StepResult> Run(const StepWork& work) override;

  void Send(const KvSend& send) override;
  void Fetch(const KvFetch& fetch) override;
  KvTransfer transfer(uint64_t id) override { return client_->transfer(id); }
  void ForgetTransfer(uint64_t id) override { client_->ForgetTransfer(id); }
  void Copy(BlockId from, BlockId to) override { storage_->Copy(from, to); }
  void Poison(BlockId id) override { storage_->Poison(id); }

 private:
  const KvStorage* const storage_;
  RemoteClient* const client_;
  Transformer transformer_;
  StepAttention attention_;
};

}  // namespace lombard
