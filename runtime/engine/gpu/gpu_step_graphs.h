// Graphs of whole steps (base/device/gpu_graph.h), found by the step's shape and by the memory that they hold
// on to.
//
//   RETURN_IF_ERROR(graphs.Run({shape, ...}, stream, [&] { return EnqueueLayers(); }));
//
// The first step of a key runs plainly, so that kernels are loaded and libraries have chosen; the second is
// recorded; all later ones are launched. One thread at a time; nothing may be in the stream that an earlier
// Run has put there, since graphs go when others come.
#pragma once

#include <list>
#include <optional>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "base/device/gpu_graph.h"
#include "distattn/gpu_step_shape.h"

namespace lombard {

class GpuStepGraphs {
 public:
  struct Key {
    GpuStepShape shape;
    // Of the memory that the launches use and that may be taken anew.
    const void* tables = nullptr;
    int states = 0, scratch = 0;  // GpuStepAttention's and GpuTransformer's generation
    bool operator==(const Key&) const = default;
  };
  // 0: every step runs plainly. Of more than graphs_max keys the one goes whose last use is longest ago.
  explicit GpuStepGraphs(size_t graphs_max) : graphs_max_(graphs_max) {}

  bool on() const { return graphs_max_ > 0; }
  // Errors are enqueue's and the device's. Where there is no memory for a graph, it and all later steps run
  // plainly.
  absl::Status Run(const Key& key, GpuStream& stream, absl::FunctionRef<absl::Status()> enqueue);

 private:
  struct Entry {
    Key key;
    std::optional<GpuGraph> graph;
  };
  size_t graphs_max_;
  std::list<Entry> entries_;  // the last one used first
};

// A graph takes memory for each of its some 12 launches a layer; a guess: a megabyte.
constexpr size_t kGpuGraphsMax = 32;

}  // namespace lombard
