#include "base/device/gpu_tables.h"

#include "base/status.h"

namespace lombard {

absl::Status GpuTables::Send(GpuStream& stream) {
  if (bytes_.size() > device_.bytes()) {
    const uint64_t bytes = std::max<uint64_t>(64 << 10, 2 * bytes_.size());
    ASSIGN_OR_RETURN(pinned_, PinnedMemory::Create(stream.device(), bytes));
    ASSIGN_OR_RETURN(device_, DeviceMemory::Create(stream.device(), bytes));
  }
  if (bytes_.empty()) return absl::OkStatus();
  std::memcpy(pinned_.data(), bytes_.data(), bytes_.size());
  return stream.Copy(device_.data(), pinned_.data(), bytes_.size());
}

}  // namespace lombard
