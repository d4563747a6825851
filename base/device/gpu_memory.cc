#include "base/device/gpu_memory.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "base/device/device_api.h"
#include "base/device/gpu_status.h"
#include "base/status.h"
#include "base/units.h"

namespace lombard {
template <GpuMemoryKind kKind>
absl::StatusOr<GpuMemory<kKind>> GpuMemory<kKind>::Create(int device, uint64_t bytes) {
  constexpr bool kPinned = kKind == GpuMemoryKind::kPinned;
  GpuMemory memory;
  memory.device_ = device, memory.bytes_ = bytes;
  if (bytes == 0) return memory;
  const auto allocate = kPinned ? device_api::AllocatePinned : device_api::Allocate;
  const GpuError error = allocate(device, bytes, &memory.data_);
  if (error.ok()) return memory;
  memory.data_ = nullptr;
  std::string asked =
      absl::StrCat(kPinned ? "pinned, " : "", FormatBytes(bytes), " (", bytes, " B) on GPU ", device);
  if (!kPinned) {
    if (const auto use = QueryGpuMemory(device); use.ok())
      absl::StrAppend(&asked, ", ", FormatBytes(use->free_bytes), " free");
  }
  return ToStatus(error, asked);
}

template <GpuMemoryKind kKind>
void GpuMemory<kKind>::Reset() {
  const auto free = kKind == GpuMemoryKind::kPinned ? device_api::FreePinned : device_api::Free;
  if (data_ != nullptr) ReportGpuError(free(device_, data_));
  data_ = nullptr, bytes_ = 0;
}

template class GpuMemory<GpuMemoryKind::kDevice>;
template class GpuMemory<GpuMemoryKind::kPinned>;

absl::StatusOr<GpuMemoryUse> QueryGpuMemory(int device) {
  GpuMemoryUse use;
  RETURN_IF_ERROR(ToStatus(device_api::MemoryInfo(device, &use.free_bytes, &use.total_bytes), OnGpu(device)));
  return use;
}

}  // namespace lombard
