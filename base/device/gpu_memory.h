// Memory of a GPU, and host memory that a GPU can copy from and to while the host does other things.
#pragma once

#include <cstdint>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace lombard {

enum class GpuMemoryKind : uint8_t { kDevice, kPinned };

// Owns `bytes`, 256-byte aligned, not initialised. Movable. Freeing waits for all work of the device:
// allocate at the start, not in a step. Not thread-safe.
template <GpuMemoryKind kKind>
class GpuMemory {
 public:
  GpuMemory() = default;  // nothing
  // kResourceExhausted names what was asked and, of a device, what is free.
  static absl::StatusOr<GpuMemory> Create(int device, uint64_t bytes);
  ~GpuMemory() { Reset(); }
  GpuMemory(GpuMemory&& other) noexcept { *this = std::move(other); }
  GpuMemory& operator=(GpuMemory&& other) noexcept {
    if (this == &other) return *this;
    Reset();
    data_ = std::exchange(other.data_, nullptr);
    bytes_ = std::exchange(other.bytes_, 0);
    device_ = other.device_;
    return *this;
  }

  template <class T = void>
  T* data() const {
    return static_cast<T*>(data_);
  }
  uint64_t bytes() const { return bytes_; }
  void Reset();

 private:
  void* data_ = nullptr;
  uint64_t bytes_ = 0;
  int device_ = 0;
};

using DeviceMemory = GpuMemory<GpuMemoryKind::kDevice>;
// Page-locked host memory. A copy between it and a device needs no staging and does not block the host; the
// bytes may be touched again only after the stream has passed the copy.
using PinnedMemory = GpuMemory<GpuMemoryKind::kPinned>;

// As the driver counts it: other processes' memory is not free.
struct GpuMemoryUse {
  uint64_t free_bytes = 0, total_bytes = 0;
};
absl::StatusOr<GpuMemoryUse> QueryGpuMemory(int device);

}  // namespace lombard
