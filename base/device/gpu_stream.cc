#include "base/device/gpu_stream.h"

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/device/device_api.h"
#include "base/device/gpu_status.h"
#include "base/status.h"
#include "base/units.h"

namespace lombard {

absl::StatusOr<GpuStream> GpuStream::Create(int device, int priority) {
  GpuStream stream;
  stream.ref_.device = device;
  RETURN_IF_ERROR(ToStatus(device_api::CreateStream(device, priority, &stream.ref_.handle), OnGpu(device)));
  return stream;
}

GpuStream::~GpuStream() {
  if (ref_.handle == nullptr) return;
  ReportGpuError(device_api::Synchronize(ref_));
  ReportGpuError(device_api::DestroyStream(ref_));
}

GpuStream& GpuStream::operator=(GpuStream&& other) noexcept {
  std::swap(ref_, other.ref_);
  return *this;
}

absl::Status GpuStream::Copy(void* dst, const void* src, uint64_t bytes) {
  if (bytes == 0) return absl::OkStatus();
  const GpuError error = device_api::Copy(dst, src, bytes, ref_);
  return error.ok() ? absl::OkStatus() : ToStatus(error, absl::StrCat(bytes, " B, ", OnGpu(ref_.device)));
}

absl::Status GpuStream::Fill(void* memory, uint8_t byte, uint64_t bytes) {
  if (bytes == 0) return absl::OkStatus();
  const GpuError error = device_api::Fill(memory, byte, bytes, ref_);
  return error.ok() ? absl::OkStatus() : ToStatus(error, absl::StrCat(bytes, " B, ", OnGpu(ref_.device)));
}

absl::Status GpuStream::Record(GpuEvent& event) {
  CHECK_EQ(event.device_, ref_.device);
  return ToStatus(device_api::Record(event.handle_, ref_), OnGpu(ref_.device));
}

absl::Status GpuStream::Wait(GpuEvent& event) {
  return ToStatus(device_api::Wait(ref_, event.handle_), OnGpu(ref_.device));
}

absl::Status GpuStream::Synchronize() { return ToStatus(device_api::Synchronize(ref_), OnGpu(ref_.device)); }

absl::StatusOr<bool> GpuStream::IsDone() {
  bool done = false;
  RETURN_IF_ERROR(ToStatus(device_api::StreamIsDone(ref_, &done), OnGpu(ref_.device)));
  return done;
}

absl::Status MakeGpuCurrent(int device) { return ToStatus(device_api::MakeCurrent(device)); }

}  // namespace lombard
