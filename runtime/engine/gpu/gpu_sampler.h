// Chooses tokens where the logits are, so that they need not come to the host. Results are those of
// runtime/engine/sampler.h up to the rounding that kernels/cuda/sample.h states.
//
//   sampler.Begin(input.sampling, &tables);        // before tables.Send
//   RETURN_IF_ERROR(sampler.Enqueue(stream, logits, &tables));
//   ... the stream has passed ...
//   sampler.Take(&result);
#pragma once

#include <memory>

#include "base/device/gpu_memory.h"
#include "base/device/gpu_stream.h"
#include "base/device/gpu_tables.h"
#include "kernels/cuda/sample.h"
#include "runtime/engine/step_work.h"

namespace lombard {

class GpuSampler {
 public:
  GpuSampler(int vocabulary, std::vector<int32_t> eos_ids)
      : vocabulary_(vocabulary), eos_ids_(std::move(eos_ids)) {}

  // kResourceExhausted: no room for so many rows.
  absl::Status Reserve(int device, int rows);
  void Begin(absl::Span<const RowSampling> rows, GpuTables* tables);
  // `logits` [rows, vocabulary] are device memory; they are lost.
  absl::Status Enqueue(GpuStream& stream, float* logits, const GpuTables& tables);
  void Take(StepResult* result) const;
  uint64_t device_bytes() const { return tokens_.bytes(); }

 private:
  void Describe(const RowSampling& from, GpuSampleRow* row);

  const int vocabulary_;
  const std::vector<int32_t> eos_ids_;
  std::vector<GpuSampleRow> rows_;
  std::vector<GpuLogitChange> changes_;
  std::vector<int32_t> place_of_id_;  // [vocabulary] in changes_, of the row that is described; else -1
  GpuTables::Place<GpuSampleRow> rows_place_;
  GpuTables::Place<GpuLogitChange> changes_place_;
  DeviceMemory tokens_;  // GpuSampledToken
  PinnedMemory host_tokens_;
};

}  // namespace lombard
