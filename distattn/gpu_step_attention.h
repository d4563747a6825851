// StepAttention's counterpart on a GPU: executes a step's plan, layer by layer, on the step's stream. One
// schedule is made per step and runs in every layer; the host takes part only where something is lent.
//
//   RETURN_IF_ERROR(attention.Begin(step, &plan));
//   attention.AddTables(&tables);
//   RETURN_IF_ERROR(tables.Send(stream));
//   for each layer: rotate q, append the new K and V to slots() of blocks();
//                   RETURN_IF_ERROR(attention.Attend(layer, q, out, out_dtype));
//
//   RETURN_IF_ERROR(attention.End());
//
// Lent spans, announced: queries and states go from GPU to GPU while local spans are attended, without the
// host (gpu_step_exchange.h). Others, driven by the host: the layer's queries come to pinned memory, leave by
// RemoteClient, and the states that come back are copied to where the merge finds them. Belongs to the step
// thread.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "base/device/gpu_stream.h"
#include "base/device/gpu_tables.h"
#include "distattn/gpu_step_exchange.h"
#include "distattn/gpu_step_shape.h"
#include "distattn/plan.h"
#include "distattn/remote_client.h"
#include "kernels/cuda/attention_schedule.h"
#include "kernels/cuda/partial_attention.h"
#include "kvpool/gpu_kv_storage.h"

namespace lombard {

class GpuStepAttention {
 public:
  // `client` may be null where nothing is ever lent, `exchanger` where nothing is announced. Nothing is
  // owned; all outlive this.
  static absl::StatusOr<std::unique_ptr<GpuStepAttention>> Create(const AttentionShape& shape,
                                                                  const GpuKvStorage* storage,
                                                                  RemoteClient* client, GpuStream* stream,
                                                                  GpuExchanger* exchanger = nullptr);

  // Room for the states of a prefill of so many rows, and of as many decoded rows as are sampled, whose
  // contexts are cut into 32 parts (AttentionPartKeys). Steps that want more take it when they come.
  // kResourceExhausted: there is none.
  absl::Status Reserve(int rows, int sampled);

  // padded_rows > 0: the step is filled up to so many rows and to a shape (gpu_step_shape.h), unless some of
  // it is lent. kResourceExhausted: no room for the states.
  absl::Status Begin(uint64_t step, const AttentionPlan* plan, int padded_rows = 0);
  int rows() const { return rows_; }  // with those that fill up
  // What the step was filled up to; nullopt: it was not.
  const std::optional<GpuStepShape>& padded_shape() const { return padded_shape_; }
  // Adds the step's arrays to `tables`, which the caller sends before the first layer and leaves alone until
  // the step's end. Of steps of one shape all lie at the same places if what was added before does.
  void AddTables(GpuTables* tables);

  // Device memory, of this step: where the rows' new keys and values go; block -1: nowhere.
  const int32_t* positions() const { return tables_->At(positions_); }  // [rows]
  const int32_t* slots() const { return tables_->At(slots_); }          // [rows]
  const int32_t* blocks() const { return tables_->At(blocks_); }        // [rows]
  // Grows when the states' memory is taken anew, and graphs of Attend are of no use any more.
  int generation() const { return generation_; }
  uint64_t device_bytes() const { return states_.bytes(); }  // without the exchange's

  // q [rows, q_heads, head_dim] of the KV dtype, contiguous; out [rows, q_heads, head_dim] of out_dtype.
  // Enqueues; waits only for queries and states of lent spans. Errors are those of RemoteClient and the
  // device's. After an error the stream may still have work that uses the step's arrays.
  absl::Status Attend(int layer, const void* q, void* out, DType out_dtype);

  // Waits for what the stream was given before the event was recorded.
  absl::Status Wait(GpuEvent& event);
  // The step is over, or given up. Waits for the stream where GPUs exchanged. kUnavailable: one of them was
  // lost, and the step's results are rubbish.
  absl::Status End();

  // Once the stream has passed the last layer. Local attention is that of one layer, times the layers.
  absl::StatusOr<AttentionTiming> Timing() const;
  bool has_remote() const { return !lent_.empty(); }
  bool peers_failed() const { return peers_failed_; }  // Attend's last error was of RemoteClient
  uint64_t keys_read() const { return keys_read_; }    // as StepAttention's

 private:
  GpuStepAttention(const AttentionShape& shape, const GpuKvStorage* storage, RemoteClient* client,
                   GpuStream* stream, GpuEvent queries_here, GpuEvent begin, GpuEvent end);
  std::vector<AttentionItem> MakeItems();
  absl::Status GrowStates(int64_t rows);
  AttentionState HostState(size_t lent) const;
  // The queries must be here. False: no lent span is visible in this layer.
  absl::StatusOr<bool> PostLent(int layer);
  absl::Status UploadLent();
  float* acc() const { return states_.data<float>(); }
  float* max() const { return acc() + state_rows_ * shape_.q_heads * storage_->layout().head_dim; }
  float* sum() const { return max() + state_rows_ * shape_.q_heads; }

  const AttentionShape shape_;
  const GpuKvStorage* const storage_;
  RemoteClient* const client_;
  GpuStream* const stream_;
  GpuEvent queries_here_, begin_, end_;

  // Of the step.
  uint64_t step_ = 0;
  const AttentionPlan* plan_ = nullptr;
  int rows_ = 0;
  GpuTables* tables_ = nullptr;
  AttentionSchedule schedule_;
  std::optional<GpuStepShape> padded_shape_;
  std::vector<int32_t> block_ids_, row_positions_;
  GpuTables::Place<AttentionWork> work_;
  GpuTables::Place<int32_t> work_rows_, merge_begin_, merge_states_, block_table_, positions_, slots_,
      blocks_;
  std::vector<LentRows> lent_;
  std::vector<size_t> host_states_at_;  // of lent_, in host_states_: state row
  size_t lent_rows_ = 0;                // of lent_, together
  bool host_driven_ = false;            // some of lent_
  bool peers_failed_ = false;
  uint64_t keys_read_ = 0;
  int timed_layer_ = 0;
  AttentionTiming timing_;

  int64_t state_rows_ = 0;  // that states_ has room for
  int generation_ = 0;
  DeviceMemory states_;  // acc, max, sum
  PinnedMemory host_q_;  // [rows, q_heads, head_dim] of the KV dtype
  PinnedMemory host_states_;
  std::vector<float> q_;
  std::unique_ptr<GpuStepExchange> exchange_;  // null where nothing is announced
};

}  // namespace lombard
