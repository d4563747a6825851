#include "base/device/gpu_memory.h"

#include <cstdio>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/device/device_api.h"
#include "base/device/gpu_status.h"
#include "base/status.h"
#include "base/units.h"

namespace lombard {
namespace {

std::string Asked(int device, uint64_t bytes) {
  return absl::StrCat(FormatBytes(bytes), " (", bytes, " B) on GPU ", device);
}

// Destructors cannot return a Status.
void Report(const GpuError& error) {
  if (!error.ok()) std::fprintf(stderr, "%s\n", std::string(ToStatus(error).message()).c_str());
}

}  // namespace

absl::StatusOr<DeviceMemory> DeviceMemory::Create(int device, uint64_t bytes) {
  DeviceMemory memory;
  memory.device_ = device, memory.bytes_ = bytes;
  if (bytes == 0) return memory;
  if (const GpuError error = device_api::Allocate(device, bytes, &memory.data_); !error.ok()) {
    memory.data_ = nullptr;
    std::string asked = Asked(device, bytes);
    if (const auto use = QueryGpuMemory(device); use.ok())
      absl::StrAppend(&asked, ", ", FormatBytes(use->free_bytes), " free");
    return ToStatus(error, asked);
  }
  return memory;
}

DeviceMemory& DeviceMemory::operator=(DeviceMemory&& other) noexcept {
  if (this == &other) return *this;
  Reset();
  data_ = std::exchange(other.data_, nullptr);
  bytes_ = std::exchange(other.bytes_, 0);
  device_ = other.device_;
  return *this;
}

void DeviceMemory::Reset() {
  if (data_ != nullptr) Report(device_api::Free(device_, data_));
  data_ = nullptr, bytes_ = 0;
}

absl::StatusOr<PinnedMemory> PinnedMemory::Create(int device, uint64_t bytes) {
  PinnedMemory memory;
  memory.device_ = device, memory.bytes_ = bytes;
  if (bytes == 0) return memory;
  if (const GpuError error = device_api::AllocatePinned(device, bytes, &memory.data_); !error.ok()) {
    memory.data_ = nullptr;
    return ToStatus(error, absl::StrCat("pinned, ", Asked(device, bytes)));
  }
  return memory;
}

PinnedMemory& PinnedMemory::operator=(PinnedMemory&& other) noexcept {
  if (this == &other) return *this;
  Reset();
  data_ = std::exchange(other.data_, nullptr);
  bytes_ = std::exchange(other.bytes_, 0);
  device_ = other.device_;
  return *this;
}

void PinnedMemory::Reset() {
  if (data_ != nullptr) Report(device_api::FreePinned(device_, data_));
  data_ = nullptr, bytes_ = 0;
}

absl::StatusOr<GpuMemoryUse> QueryGpuMemory(int device) {
  GpuMemoryUse use;
  RETURN_IF_ERROR(ToStatus(device_api::MemoryInfo(device, &use.free_bytes, &use.total_bytes),
                           absl::StrCat("GPU ", device)));
  return use;
}

}  // namespace lombard
