#include "runtime/engine/gpu/gpu_sampler.h"

#include <algorithm>
#include <limits>
#include <map>

#include "base/check.h"
#include "base/device/gpu_status.h"
#include "base/status.h"
#include "runtime/engine/philox.h"

namespace lombard {

static_assert(kGpuTopLogprobsMax >= kTopLogprobsMax);

absl::Status GpuSampler::Reserve(int device, int rows) {
  const uint64_t bytes = rows * sizeof(GpuSampledToken);
  if (bytes > tokens_.bytes()) {
    ASSIGN_OR_RETURN(tokens_, DeviceMemory::Create(device, bytes));
    ASSIGN_OR_RETURN(host_tokens_, PinnedMemory::Create(device, bytes));
  }
  return absl::OkStatus();
}

void GpuSampler::Describe(const RowSampling& from, GpuSampleRow* row) {
  const SamplingParams& params = *from.params;
  *row = {.top_p = params.top_p,
          .min_p = params.min_p,
          .repetition_penalty = static_cast<float>(params.repetition_penalty),
          .top_k = std::max(params.top_k, 0),
          .change_begin = static_cast<int32_t>(changes_.size()),
          .change_end = static_cast<int32_t>(changes_.size()),
          .logprobs = params.logprobs.value_or(-1)};
  if (!params.greedy()) {
    row->uniform = UniformAt(params.seed, from.sample_index, from.prompt.size() + from.output.size());
    row->inverse_temperature = static_cast<float>(1 / params.temperature);
  }
  // A prompt may be long, and this runs in every step: one look-up for each of its tokens.
  const size_t begin = changes_.size();
  place_of_id_.resize(vocabulary_, -1);
  const auto change = [&](int32_t id) -> GpuLogitChange& {
    CHECK(id >= 0 && id < vocabulary_) << id;
    int32_t& place = place_of_id_[id];
    if (place < 0) {
      place = static_cast<int32_t>(changes_.size());
      changes_.push_back({.id = id});
    }
    return changes_[place];
  };
  if (params.repetition_penalty != 1) {
    for (const int32_t id : from.prompt) change(id).repeated = 1;
    for (const int32_t id : from.output) change(id).repeated = 1;
  }
  if (params.frequency_penalty != 0 || params.presence_penalty != 0) {
    std::map<int32_t, uint32_t> counts;
    for (const int32_t id : from.output) ++counts[id];
    for (const auto& [id, count] : counts)
      change(id).subtract = static_cast<float>(params.frequency_penalty * count + params.presence_penalty);
  }
  const auto take_out = [&](absl::Span<const int32_t> ids) {
    for (const int32_t id : ids) {
      if (id >= 0 && id < vocabulary_) change(id).subtract = std::numeric_limits<float>::infinity();
    }
  };
  if (from.output.size() < params.min_tokens) {
    take_out(params.stop_token_ids);
    if (!params.ignore_eos) take_out(eos_ids_);
  }
  for (size_t i = begin; i < changes_.size(); ++i) place_of_id_[changes_[i].id] = -1;
  row->change_end = static_cast<int32_t>(changes_.size());
}

void GpuSampler::Begin(absl::Span<const RowSampling> rows, GpuTables* tables) {
  rows_.clear(), changes_.clear();
  for (const RowSampling& row : rows) Describe(row, &rows_.emplace_back());
  rows_place_ = tables->Add<GpuSampleRow>(rows_);
  changes_place_ = tables->Add<GpuLogitChange>(changes_);
}

absl::Status GpuSampler::Enqueue(GpuStream& stream, float* logits, const GpuTables& tables) {
  if (rows_.empty()) return absl::OkStatus();
  GpuSampleArgs args;
  args.logits = logits, args.tokens = tokens_.data<GpuSampledToken>();
  args.rows = tables.At(rows_place_), args.changes = tables.At(changes_place_);
  args.row_count = static_cast<int>(rows_.size()), args.vocabulary = vocabulary_;
  RETURN_IF_ERROR(ToStatus(GpuSample(stream.ref(), args)));
  return stream.Copy(host_tokens_.data(), tokens_.data(), rows_.size() * sizeof(GpuSampledToken));
}

void GpuSampler::Take(StepResult* result) const {
  const auto* tokens = host_tokens_.data<GpuSampledToken>();
  for (size_t i = 0; i < rows_.size(); ++i) {
    SampledToken& sampled = result->sampled.emplace_back().emplace();
    sampled.id = tokens[i].id;
    if (tokens[i].id < 0 || rows_[i].logprobs < 0) continue;
    sampled.logprob = tokens[i].logprob;
    for (int best = 0; best < rows_[i].logprobs && tokens[i].top_ids[best] >= 0; ++best)
      sampled.top.emplace_back(tokens[i].top_ids[best], tokens[i].top_logprobs[best]);
  }
}

}  // namespace lombard
