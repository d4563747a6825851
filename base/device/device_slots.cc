#include "base/device/device_slots.h"

#include <utility>

#include "base/check.h"

namespace lombard {

std::shared_ptr<DeviceSlots> DeviceSlots::Create(Options options) {
  return std::shared_ptr<DeviceSlots>(new DeviceSlots(std::move(options)));
}

DeviceSlots::DeviceSlots(Options options) : options_(std::move(options)) {
  CHECK(options_.memory != nullptr && options_.slot_bytes > 0);
  for (int i = 0; i < options_.count; ++i) free_.push_back(options_.memory.get() + i * options_.slot_bytes);
}

DeviceBytes DeviceSlots::Take(size_t bytes) {
  if (bytes > options_.slot_bytes) return {};
  std::lock_guard lock(mutex_);
  if (free_.empty()) return {};
  std::byte* const slot = free_.back();
  free_.pop_back();
  return {std::shared_ptr<std::byte>(slot, [self = shared_from_this()](std::byte* s) { self->GiveBack(s); }),
          bytes};
}

void DeviceSlots::GiveBack(std::byte* slot) {
  std::lock_guard lock(mutex_);
  free_.push_back(slot);
}

int DeviceSlots::free_count() const {
  std::lock_guard lock(mutex_);
  return static_cast<int>(free_.size());
}

}  // namespace lombard
