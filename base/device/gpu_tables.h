// A step's small arrays on their way to a GPU: packed into pinned memory, and there with one copy.
//
//   tables.Clear();
//   const auto ids = tables.Add<int32_t>(input.tokens);
//   RETURN_IF_ERROR(tables.Send(stream));
//   kernel(tables.At(ids), ...);
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "base/device/gpu_memory.h"
#include "base/device/gpu_stream.h"

namespace lombard {

// Memory grows, never shrinks. One caller at a time.
class GpuTables {
 public:
  template <class T>
  struct Place {
    uint64_t offset = 0;
  };

  // The copies sent before must have been passed by their stream.
  void Clear() { bytes_.clear(); }
  // Every array begins at a multiple of 16 bytes.
  template <class T>
  Place<T> Add(absl::Span<const T> values) {
    const uint64_t offset = (bytes_.size() + 15) / 16 * 16;
    bytes_.resize(offset + values.size() * sizeof(T));
    if (!values.empty()) std::memcpy(bytes_.data() + offset, values.data(), values.size() * sizeof(T));
    return {offset};
  }
  absl::Status Send(GpuStream& stream);
  // Device memory; there once the stream has passed Send. Kernels may write to it.
  template <class T>
  T* At(Place<T> place) const {
    return reinterpret_cast<T*>(device_.data<char>() + place.offset);
  }
  uint64_t device_bytes() const { return device_.bytes(); }

 private:
  std::vector<char> bytes_;
  PinnedMemory pinned_;
  DeviceMemory device_;
};

}  // namespace lombard
