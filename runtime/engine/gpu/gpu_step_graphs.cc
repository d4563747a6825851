#include "runtime/engine/gpu/gpu_step_graphs.h"

#include <algorithm>

#include "base/status.h"

namespace lombard {

absl::Status GpuStepGraphs::Run(const Key& key, GpuStream& stream,
                                absl::FunctionRef<absl::Status()> enqueue) {
  if (!on()) return enqueue();
  const auto found =
      std::find_if(entries_.begin(), entries_.end(), [&](const Entry& entry) { return entry.key == key; });
  if (found == entries_.end()) {
    if (entries_.size() == graphs_max_) entries_.pop_back();
    entries_.push_front({key, std::nullopt});
    return enqueue();
  }
  entries_.splice(entries_.begin(), entries_, found);
  std::optional<GpuGraph>& graph = entries_.front().graph;
  if (!graph.has_value()) {
    absl::StatusOr<GpuGraph> captured = GpuGraph::Capture(stream, enqueue);
    if (absl::IsResourceExhausted(captured.status())) {
      entries_.clear();
      graphs_max_ = 0;
      return enqueue();
    }
    RETURN_IF_ERROR(captured.status());
    graph.emplace(*std::move(captured));
  }
  return graph->Launch(stream);
}

}  // namespace lombard
