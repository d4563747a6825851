#include "runtime/engine/cpu_compute.h"

#include "base/status.h"
#include "distattn/sharing_profile.h"
#include "runtime/engine/cpu_machine.h"

namespace lombard {
namespace {

class CpuCompute final : public Compute {
 public:
  CpuCompute(const Model* model, std::unique_ptr<KvStorage> storage, Isa isa, int threads,
             int service_threads)
      : model_(model),
        storage_(std::move(storage)),
        threads_(threads),
        service_threads_(service_threads),
        context_{isa, &threads_},
        span_attention_(ShapeOf(model->config()), {isa, &service_threads_}, storage_.get()) {}

  const KvBytes* storage() const override { return storage_.get(); }
  SpanAttention* span_attention() override { return &span_attention_; }
  SharingCost MeasureSharing(absl::Duration budget) override {
    return lombard::MeasureSharing(ShapeOf(model_->config()), storage_->layout(), context_, budget);
  }
  absl::StatusOr<std::unique_ptr<Machine>> MakeMachine(RemoteClient* client, GpuExchanger*) override {
    return std::make_unique<CpuMachine>(model_, context_, storage_.get(), client);
  }

 private:
  const Model* const model_;
  const std::unique_ptr<KvStorage> storage_;
  ThreadPool threads_, service_threads_;
  const CpuContext context_;
  CpuSpanAttention span_attention_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Compute>> MakeCpuCompute(const Model* model, const KvLayout& layout,
                                                        uint32_t blocks, Isa isa, int threads,
                                                        int service_threads) {
  ASSIGN_OR_RETURN(auto storage, KvStorage::Create(layout, model->config().layers, blocks));
  return std::make_unique<CpuCompute>(model, std::move(storage), isa, threads, service_threads);
}

}  // namespace lombard
