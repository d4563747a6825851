#include "base/device/gpu_graph.h"

#include "base/device/device_api.h"
#include "base/device/gpu_status.h"
#include "base/status.h"

namespace lombard {

absl::StatusOr<GpuGraph> GpuGraph::Capture(GpuStream& stream, absl::FunctionRef<absl::Status()> enqueue) {
  GpuGraph graph;
  graph.device_ = stream.device();
  const std::string on = OnGpu(stream.device());
  RETURN_IF_ERROR(ToStatus(device_api::BeginCapture(stream.ref()), on));
  const absl::Status enqueued = enqueue();
  const absl::Status ended = ToStatus(device_api::EndCapture(stream.ref(), &graph.handle_), on);
  RETURN_IF_ERROR(enqueued);
  RETURN_IF_ERROR(ended);
  RETURN_IF_ERROR(ToStatus(device_api::UploadGraph(graph.handle_, stream.ref()), on));
  return graph;
}

GpuGraph::~GpuGraph() {
  if (handle_ != nullptr) ReportGpuError(device_api::DestroyGraph(device_, handle_));
}

GpuGraph& GpuGraph::operator=(GpuGraph&& other) noexcept {
  std::swap(handle_, other.handle_);
  std::swap(device_, other.device_);
  return *this;
}

absl::Status GpuGraph::Launch(GpuStream& stream) {
  return ToStatus(device_api::LaunchGraph(handle_, stream.ref()), OnGpu(device_));
}

}  // namespace lombard
