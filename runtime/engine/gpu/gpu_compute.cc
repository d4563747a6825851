#include "runtime/engine/gpu/gpu_compute.h"

#include "base/status.h"
#include "distattn/gpu_announced_attention.h"
#include "distattn/gpu_span_attention.h"
#include "runtime/engine/cpu_machine.h"
#include "runtime/engine/gpu/gpu_machine.h"

namespace lombard {
namespace {

class GpuCompute final : public Compute {
 public:
  GpuCompute(std::shared_ptr<const GpuModel> model, const GpuComputeOptions& options,
             std::unique_ptr<GpuKvStorage> storage, std::unique_ptr<GpuSpanAttention> span_attention,
             std::unique_ptr<GpuAnnouncedAttention> announced_attention)
      : model_(std::move(model)),
        options_(options),
        storage_(std::move(storage)),
        span_attention_(std::move(span_attention)),
        announced_attention_(std::move(announced_attention)) {}

  const KvBytes* storage() const override { return storage_.get(); }
  SpanAttention* span_attention() override { return span_attention_.get(); }
  // Not measured: a GPU's arithmetic is taken for free, and a piece of work for what reading 256 keys costs.
  SharingCost MeasureSharing(absl::Duration) override { return SharingCost::OfReading(256); }
  GpuExchangeEnd MakeExchangeEnd(int rank, const Clock* clock) override {
    return options_.exchange_end ? options_.exchange_end(rank, clock) : GpuExchangeEnd{};
  }
  absl::StatusOr<std::shared_ptr<DeviceSlots>> MakeDeviceSlots() override { return storage_->MakeSlots(); }
  AnnouncedAttention* announced_attention() override { return announced_attention_.get(); }
  absl::StatusOr<std::unique_ptr<Machine>> MakeMachine(RemoteClient* client,
                                                       GpuExchanger* exchanger) override {
    ASSIGN_OR_RETURN(std::unique_ptr<GpuMachine> machine,
                     GpuMachine::Create(model_, storage_.get(), client, options_.graphs_max, exchanger));
    RETURN_IF_ERROR(machine->Reserve(options_.rows_max, options_.logits_max));
    return machine;
  }

 private:
  const std::shared_ptr<const GpuModel> model_;
  const GpuComputeOptions options_;
  const std::unique_ptr<GpuKvStorage> storage_;
  const std::unique_ptr<GpuSpanAttention> span_attention_;
  const std::unique_ptr<GpuAnnouncedAttention> announced_attention_;  // null without exchange_end
};

}  // namespace

absl::StatusOr<std::unique_ptr<Compute>> MakeGpuCompute(std::shared_ptr<const GpuModel> model,
                                                        const GpuComputeOptions& options,
                                                        const KvLayout& layout, uint32_t blocks) {
  const int device = model->device();
  ASSIGN_OR_RETURN(auto storage, GpuKvStorage::Create(device, layout, model->config().layers, blocks));
  const AttentionShape shape = ShapeOf(model->config());
  ASSIGN_OR_RETURN(auto span_attention, GpuSpanAttention::Create(device, shape, storage.get()));
  std::unique_ptr<GpuAnnouncedAttention> announced_attention;
  if (options.exchange_end) {
    ASSIGN_OR_RETURN(announced_attention, GpuAnnouncedAttention::Create(device, shape, storage.get()));
  }
  return std::make_unique<GpuCompute>(std::move(model), options, std::move(storage),
                                      std::move(span_attention), std::move(announced_attention));
}

}  // namespace lombard
