// Executes a step's attention plan, layer by layer: write the new KV, send queries to creditors, attend the
// local spans, receive the other states, merge in order of position, normalise.
//
//   attention.Begin(step, &plan);
//   for each layer: RETURN_IF_ERROR(attention.Attend(layer, q, k, v, out));
//
// Belongs to the step thread. Has no effect outside the blocks the plan names as targets, so an abandoned
// step leaves no trace.
#pragma once

#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "distattn/plan.h"
#include "distattn/remote_client.h"
#include "kernels/cpu_context.h"
#include "kvpool/kv_storage.h"

namespace lombard {

class StepAttention {
 public:
  // `client` may be null where nothing is ever lent. Nothing is owned; all outlive this.
  StepAttention(const AttentionShape& shape, const CpuContext& context, const KvStorage* storage,
                RemoteClient* client);

  // `after_kv(layer)` runs once the new K and V of a layer are stored, before attention: blocks that are full
  // by then can leave already.
  void Begin(uint64_t step, const AttentionPlan* plan, std::function<void(int layer)> after_kv = {});

  // q [rows, q_heads, head_dim] after RoPE (rounded here to the KV dtype, as creditors see it); k, v [rows,
  // kv_heads, head_dim]; out [rows, q_heads, head_dim]. All fp32, contiguous. Errors are those of
  // RemoteClient::Post and Wait.
  absl::Status Attend(int layer, float* q, const float* k, const float* v, float* out);

  const AttentionTiming& timing() const { return timing_; }  // since Begin
  bool has_remote() const { return has_remote_; }
  // Keys of one layer that the local items of this step name, without windows: what is read of K, and of V.
  uint64_t keys_read() const { return keys_read_; }

 private:
  void StoreNewKv(int layer, const float* k, const float* v) const;
  AttentionState StateAt(size_t span, int rows);  // of span number `span` of all sequences
  AttentionState StateOfRows(size_t first, int rows);

  const AttentionShape shape_;
  const CpuContext context_;
  const KvStorage* const storage_;
  RemoteClient* const client_;

  uint64_t step_ = 0;
  const AttentionPlan* plan_ = nullptr;
  std::function<void(int)> after_kv_;
  std::vector<int32_t> positions_;    // [rows]
  std::vector<size_t> state_offset_;  // per span, in rows, over all sequences
  // Where the state rows of a reader lie, per shared span that it reads; stacked queries lie in the same
  // order.
  std::vector<std::vector<size_t>> shared_rows_;  // per sequence
  size_t first_shared_row_ = 0;
  std::vector<float> shared_q_;
  std::vector<int32_t> shared_positions_;
  uint64_t keys_read_ = 0;
  std::vector<float> acc_, max_, sum_;  // states of all spans
  bool has_remote_ = false;
  AttentionTiming timing_;
};

}  // namespace lombard
