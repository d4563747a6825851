// The order of work on a GPU: streams run what is put into them in order; events order streams.
//
//   ASSIGN_OR_RETURN(GpuStream stream, GpuStream::Create(device));
//   RETURN_IF_ERROR(stream.Copy(device_memory, pinned, bytes));
//   RETURN_IF_ERROR(ToStatus(GpuRmsNorm(stream.ref(), args)));
//   RETURN_IF_ERROR(stream.Synchronize());
//
// Nothing here blocks the host but Synchronize and destruction. An error of the work itself shows at a later
// call, at Synchronize at the latest. One thread at a time per object.
#pragma once

#include <cstdint>
#include <utility>

#include "absl/status/statusor.h"
#include "base/device/gpu_error.h"
#include "base/device/gpu_event.h"

namespace lombard {

class GpuStream {
 public:
  // priority: 0 ordinary, -1 more urgent (work of a side stream that others wait for).
  static absl::StatusOr<GpuStream> Create(int device, int priority = 0);
  ~GpuStream();  // waits for the stream's work
  GpuStream(GpuStream&& other) noexcept { *this = std::move(other); }
  GpuStream& operator=(GpuStream&& other) noexcept;

  GpuStreamRef ref() const { return ref_; }  // for kernels
  int device() const { return ref_.device; }

  // Between device memory and pinned or device memory: both must live, and the source stay as it is, until
  // the stream has passed. (From and to ordinary host memory the runtime may block instead.)
  absl::Status Copy(void* dst, const void* src, uint64_t bytes);
  absl::Status Fill(void* memory, uint8_t byte, uint64_t bytes);

  absl::Status Record(GpuEvent& event);  // the event is here from now on; in a graph, with each launch
  absl::Status Wait(GpuEvent& event);    // later work of this stream waits for the event as recorded by now
  absl::Status Synchronize();            // blocks until all work is done
  absl::StatusOr<bool> IsDone();

 private:
  GpuStream() = default;
  GpuStreamRef ref_;
};

// Makes the device the calling thread's current one, for libraries that work on that (NCCL); everything of
// ours names its device.
absl::Status MakeGpuCurrent(int device);

}  // namespace lombard
