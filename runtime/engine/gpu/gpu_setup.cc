#include "runtime/engine/gpu/gpu_setup.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "base/device/gpu_info.h"
#include "base/status.h"
#include "base/units.h"
#include "runtime/engine/gpu/gpu_machine.h"

namespace lombard {
namespace {

// What CUDA and cuBLASLt take inside shows only in the driver's count of free memory, where whoever starts on
// the same GPU at this moment shows as well: more than this is taken for others'. A guess.
constexpr uint64_t kLibraryBytesMax = uint64_t{1} << 30;

struct StepMemory {
  uint64_t own_bytes = 0;   // of the step's, without its KV
  uint64_t free_bytes = 0;  // as the driver counts it, as if that KV were not
};

// One prefill of as many rows as a step may have, of which as many as possible are sampled from: kernels,
// libraries and scratch take their memory now.
absl::StatusOr<StepMemory> RunLargestStep(const GpuSetup& setup, std::string* remark) {
  const int block_tokens = setup.layout.block_tokens;
  const int rows = setup.compute_options.rows_max;
  const int blocks = (rows + block_tokens - 1) / block_tokens;
  ASSIGN_OR_RETURN(auto storage,
                   GpuKvStorage::Create(setup.model->device(), setup.layout, setup.model->config().layers,
                                        static_cast<uint32_t>(blocks)));
  ASSIGN_OR_RETURN(auto machine, GpuMachine::Create(setup.model, storage.get(), nullptr));
  RETURN_IF_ERROR(machine->Reserve(rows, setup.compute_options.logits_max));
  *remark = machine->remark();
  const SamplingParams greedy;
  StepWork work;
  SequenceRows sequence{.rows = rows};
  LocalSpan span{.blocks = {}, .token_count = rows};
  for (int block = 0; block < blocks; ++block) span.blocks.push_back(BlockId(block));
  sequence.spans.push_back(std::move(span));
  work.plan.sequences.push_back(std::move(sequence));
  for (int row = 0; row < rows; ++row) {
    work.input.tokens.push_back(0);
    work.input.positions.push_back(row);
    work.plan.new_kv.push_back({BlockId(row / block_tokens), row % block_tokens});
    if (row >= setup.compute_options.logits_max) continue;
    work.input.logit_rows.push_back(row);
    work.input.sampling.push_back({.params = &greedy});
  }
  RETURN_IF_ERROR(machine->Run(work).status());
  ASSIGN_OR_RETURN(const GpuMemoryUse use, QueryGpuMemory(setup.model->device()));
  return StepMemory{
      machine->device_bytes(),
      use.free_bytes + static_cast<uint64_t>(KvBytes::BlockBytes(setup.layout, storage->layers())) * blocks};
}

}  // namespace

namespace {

std::string GpuName(int device) {
  for (const GpuInfo& gpu : FindGpus().gpus) {
    if (gpu.device == device) return absl::StrCat(gpu.name, " (GPU ", device, ")");
  }
  return absl::StrCat("GPU ", device);
}

}  // namespace

uint32_t GpuSetup::kv_blocks() const {
  const uint64_t block_bytes = static_cast<uint64_t>(KvBytes::BlockBytes(layout, model->config().layers));
  return static_cast<uint32_t>(std::min<uint64_t>(kv_bytes / block_bytes, UINT32_MAX));
}

MakeCompute GpuSetup::MakeFactory() const {
  return [model = model, options = compute_options](const Model*, const KvLayout& layout, uint32_t blocks) {
    return MakeGpuCompute(model, options, layout, blocks);
  };
}

absl::StatusOr<GpuSetup> SetUpGpu(const Model& model, const GpuSetupOptions& options) {
  const ModelConfig& config = model.config();
  if (config.head_dim % 8 != 0 || config.head_dim > kAttentionHeadDimMax) {
    return absl::UnimplementedError(absl::StrCat("head_dim ", config.head_dim,
                                                 ": on GPUs it must be a multiple of 8 and at most ",
                                                 kAttentionHeadDimMax, "; use --device cpu"));
  }
  ASSIGN_OR_RETURN(const GpuMemoryUse before, QueryGpuMemory(options.device));
  GpuSetup setup;
  setup.layout = {.dtype = config.dtype,
                  .kv_heads = config.kv_heads,
                  .head_dim = config.head_dim,
                  .block_tokens = options.block_tokens};
  setup.compute_options = {.rows_max = options.rows_max,
                           .logits_max = options.logits_max,
                           .graphs_max = options.cuda_graphs ? kGpuGraphsMax : 0};
  ASSIGN_OR_RETURN(setup.model, GpuModel::Load(model, options.device));
  absl::StatusOr<StepMemory> ran = RunLargestStep(setup, &setup.remark);
  // Its KV may be more than what was given.
  if (options.kv_given && absl::IsResourceExhausted(ran.status())) ran = StepMemory{0, before.free_bytes};
  ASSIGN_OR_RETURN(const StepMemory after, std::move(ran));

  const uint64_t used = before.free_bytes - std::min(before.free_bytes, after.free_bytes),
                 weights = setup.model->bytes(), known = weights + after.own_bytes;
  const uint64_t step = after.own_bytes + std::min(used - std::min(used, known), kLibraryBytesMax),
                 steps = step * options.workers;
  const uint64_t share = std::min(before.total_bytes / options.sharers, before.free_bytes);
  const uint64_t budget = static_cast<uint64_t>(options.utilization * static_cast<double>(share));
  setup.kv_bytes = (budget - std::min(budget, weights + steps)) / options.workers;
  const std::string text = absl::StrFormat(
      "%s: %s to fill (--gpu-memory-utilization %.2f of %s), weights %s, %d x a step of %d rows %s",
      GpuName(options.device), FormatBytes(budget), options.utilization, FormatBytes(share),
      FormatBytes(weights), options.workers, options.rows_max, FormatBytes(step));
  if (setup.kv_blocks() < 1 && !options.kv_given) {
    return absl::ResourceExhaustedError(absl::StrCat(
        text, ", which leaves no room for KV: raise the share, lower --max-batch-tokens, or use more GPUs"));
  }
  setup.text = absl::StrFormat("%s, %d x KV %s (%d B)", text, options.workers, FormatBytes(setup.kv_bytes),
                               setup.kv_bytes);
  return setup;
}

}  // namespace lombard
