#include "base/device/gpu_event.h"

#include "base/device/device_api.h"
#include "base/device/gpu_status.h"
#include "base/status.h"

namespace lombard {

absl::StatusOr<GpuEvent> GpuEvent::Create(int device, bool timing) {
  GpuEvent event;
  event.device_ = device;
  RETURN_IF_ERROR(ToStatus(device_api::CreateEvent(device, timing, &event.handle_), OnGpu(device)));
  return event;
}

GpuEvent::~GpuEvent() {
  if (handle_ != nullptr) ReportGpuError(device_api::DestroyEvent(device_, handle_));
}

GpuEvent& GpuEvent::operator=(GpuEvent&& other) noexcept {
  std::swap(handle_, other.handle_);
  std::swap(device_, other.device_);
  return *this;
}

absl::Status GpuEvent::Synchronize() {
  return ToStatus(device_api::SynchronizeEvent(device_, handle_), OnGpu(device_));
}

absl::StatusOr<bool> GpuEvent::IsDone() {
  bool done = false;
  RETURN_IF_ERROR(ToStatus(device_api::EventIsDone(device_, handle_, &done), OnGpu(device_)));
  return done;
}

absl::StatusOr<float> ElapsedMs(const GpuEvent& start, const GpuEvent& end) {
  float milliseconds = 0;
  RETURN_IF_ERROR(ToStatus(device_api::ElapsedMs(start.device_, start.handle_, end.handle_, &milliseconds),
                           OnGpu(start.device_)));
  return milliseconds;
}

}  // namespace lombard
