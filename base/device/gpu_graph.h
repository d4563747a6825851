// Work of a stream, recorded once and launched again as a whole: one call where there were hundreds.
//
//   ASSIGN_OR_RETURN(GpuGraph graph, GpuGraph::Capture(stream, [&] { return EnqueueStep(stream); }));
//   RETURN_IF_ERROR(graph.Launch(stream));  // as EnqueueStep would
//
// Arguments of kernels are those of the recording, addresses too; what changes from launch to launch lies in
// device memory that the work reads. One thread at a time.
#pragma once

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "base/device/gpu_stream.h"

namespace lombard {

// Movable. Must outlive its launches, as all memory that they use.
class GpuGraph {
 public:
  // `enqueue` puts work into the stream, which does not run; it may Record events, whose points are then each
  // launch's, but neither wait nor allocate. Its error is returned. kResourceExhausted: no memory for the
  // graph, all of which is taken here. Whatever happens, the stream is as before.
  static absl::StatusOr<GpuGraph> Capture(GpuStream& stream, absl::FunctionRef<absl::Status()> enqueue);
  ~GpuGraph();
  GpuGraph(GpuGraph&& other) noexcept { *this = std::move(other); }
  GpuGraph& operator=(GpuGraph&& other) noexcept;

  absl::Status Launch(GpuStream& stream);

 private:
  GpuGraph() = default;
  void* handle_ = nullptr;
  int device_ = 0;
};

}  // namespace lombard
