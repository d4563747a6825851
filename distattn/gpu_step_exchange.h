// The debtor's half of exchanges between GPUs, for GpuStepAttention: which creditors of a step's lent spans
// attend announced, what travels to and from each, and the end.
//
//   RETURN_IF_ERROR(exchange.Begin(step, &spans));        // spans[i].announced
//   per layer: RETURN_IF_ERROR(exchange.Send(q));  ... local attention ...
//              RETURN_IF_ERROR(exchange.Receive(acc, max, sum));
//   RETURN_IF_ERROR(exchange.End());                      // always, also of a step that is given up
//
// Step thread.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "base/device/gpu_memory.h"
#include "base/device/gpu_stream.h"
#include "distattn/gpu_exchange.h"
#include "distattn/gpu_exchanger.h"
#include "distattn/plan.h"
#include "kernels/kv_layout.h"

namespace lombard {

// A lent span of a step, and who of its rows reads it.
struct LentRows {
  LentSpan span;
  int first_row = 0, rows = 0, first_query_position = 0;
  int32_t first_state = 0;  // of its states, on the device
  bool announced = false;   // GpuStepExchange brings them
};

class GpuStepExchange {
 public:
  // Nothing is owned; all outlive this. `main` is the step's stream.
  static absl::StatusOr<std::unique_ptr<GpuStepExchange>> Create(GpuExchanger* exchanger, int q_heads,
                                                                 const KvLayout& layout, int layers,
                                                                 GpuStream* main);
  ~GpuStepExchange();

  // Asks the creditors; sets `announced` where they said yes. Errors are the device's.
  absl::Status Begin(uint64_t step, std::vector<LentRows>* spans);
  bool running() const { return exchange_.has_value(); }
  // The rest, while running. q: [rows, q_heads, head_dim] of the KV dtype. Where states go: acc, max, sum of
  // all state rows, device memory.
  absl::Status Send(const void* q);
  absl::Status Receive(float* acc, float* max, float* sum);
  // Waits for what is in `main`, bounded as the exchange is (GpuExchanger::Await).
  absl::Status Wait(GpuEvent& event);
  // Keeps what was promised and waits for the streams. kUnavailable: a creditor was lost, and the step's
  // results are rubbish. kDeadlineExceeded: the GPU hangs, nothing should wait for its streams. Other errors
  // are the device's.
  absl::Status End();

 private:
  GpuStepExchange(GpuExchanger* exchanger, int q_heads, const KvLayout& layout, int layers, GpuStream* main,
                  GpuStream side)
      : exchanger_(*exchanger),
        q_heads_(q_heads),
        layout_(layout),
        layers_(layers),
        main_(*main),
        side_(std::move(side)) {}
  uint64_t row_elements() const { return static_cast<uint64_t>(q_heads_) * layout_.head_dim; }
  // Memory for the rows of these creditors, one after the other. Sets parts_.
  absl::Status PlaceParts(const std::map<int, int>& rows_of);

  GpuExchanger& exchanger_;
  const int q_heads_;
  const KvLayout layout_;
  const int layers_;
  GpuStream& main_;
  GpuStream side_;
  DeviceMemory memory_;                 // queries and states of all parts
  std::vector<GpuExchangePart> parts_;  // by creditor; of those who said yes
  // Spans of parts_, in the order of their rows there; neighbours that also lie together in the step are one.
  struct Run {
    size_t part;
    int part_row, rows, first_row;
    int32_t first_state;
  };
  std::vector<Run> runs_;
  std::optional<GpuDebtorExchange> exchange_;
};

}  // namespace lombard
