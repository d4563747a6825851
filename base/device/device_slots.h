// Pieces of a GPU's memory for bytes on their way between ranks: slots of one size, taken and given back.
//
// Nothing here calls a device. In tests host memory may stand for a GPU's.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

namespace lombard {

// A piece that several may hold; it is free again when the last of them lets go.
struct DeviceBytes {
  std::shared_ptr<std::byte> data;  // null: none
  size_t bytes = 0;
  explicit operator bool() const { return data != nullptr; }
};

// Thread-safe. The memory lives as long as the slots or a piece of them.
class DeviceSlots : public std::enable_shared_from_this<DeviceSlots> {
 public:
  struct Options {
    std::shared_ptr<std::byte> memory;  // slot_bytes * count
    size_t slot_bytes = 0;
    int count = 0;
    bool on_host = false;  // in tests: the memory is the host's
    bool dma_buf = false;  // the driver lets other devices reach the memory (GpuInfo::dma_buf)
    std::function<void()> make_current = [] {};  // makes the GPU the calling thread's current one
  };
  static std::shared_ptr<DeviceSlots> Create(Options options);

  // The beginning of a free slot. None: all are taken, or `bytes` is more than slot_bytes().
  DeviceBytes Take(size_t bytes);

  size_t slot_bytes() const { return options_.slot_bytes; }
  int free_count() const;
  bool on_host() const { return options_.on_host; }
  bool dma_buf() const { return options_.dma_buf; }
  void MakeCurrent() const { options_.make_current(); }

 private:
  explicit DeviceSlots(Options options);
  void GiveBack(std::byte* slot);

  const Options options_;
  mutable std::mutex mutex_;
  std::vector<std::byte*> free_;
};

}  // namespace lombard
