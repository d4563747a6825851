// A point in a stream (gpu_stream.h), which the host can wait for and other streams too. One thread at a time
// per object.
#pragma once

#include <utility>

#include "absl/status/statusor.h"

namespace lombard {

// Movable.
class GpuEvent {
 public:
  static absl::StatusOr<GpuEvent> Create(int device, bool timing = false);
  ~GpuEvent();
  GpuEvent(GpuEvent&& other) noexcept { *this = std::move(other); }
  GpuEvent& operator=(GpuEvent&& other) noexcept;

  absl::Status Synchronize();  // blocks until the point is passed; at once if never recorded
  absl::StatusOr<bool> IsDone();

 private:
  friend class GpuStream;
  friend absl::StatusOr<float> ElapsedMs(const GpuEvent& start, const GpuEvent& end);
  GpuEvent() = default;
  void* handle_ = nullptr;
  int device_ = 0;
};

// Between two events with timing that have passed, in milliseconds.
absl::StatusOr<float> ElapsedMs(const GpuEvent& start, const GpuEvent& end);

}  // namespace lombard
