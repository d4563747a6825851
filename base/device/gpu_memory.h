// Memory of a GPU, and host memory that a GPU can copy from and to while the host does other things.
#pragma once

#include <cstdint>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace lombard {

// Owns `bytes` of a device, 256-byte aligned, not initialised. Movable. Freeing waits for all work of the
// device: allocate at the start, not in a step. Not thread-safe.
class DeviceMemory {
 public:
  DeviceMemory() = default;  // nothing
  // kResourceExhausted names what was asked and what is free.
  static absl::StatusOr<DeviceMemory> Create(int device, uint64_t bytes);
  ~DeviceMemory() { Reset(); }
  DeviceMemory(DeviceMemory&& other) noexcept { *this = std::move(other); }
  DeviceMemory& operator=(DeviceMemory&& other) noexcept;

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

// Page-locked host memory. A copy between it and a device needs no staging and does not block the host; the
// bytes may be touched again only after the stream has passed the copy.
class PinnedMemory {
 public:
  PinnedMemory() = default;
  static absl::StatusOr<PinnedMemory> Create(int device, uint64_t bytes);
  ~PinnedMemory() { Reset(); }
  PinnedMemory(PinnedMemory&& other) noexcept { *this = std::move(other); }
  PinnedMemory& operator=(PinnedMemory&& other) noexcept;

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

// As the driver counts it: other processes' memory is not free.
struct GpuMemoryUse {
  uint64_t free_bytes = 0, total_bytes = 0;
};
absl::StatusOr<GpuMemoryUse> QueryGpuMemory(int device);

}  // namespace lombard
