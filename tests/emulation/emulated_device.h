// What a test may set of the emulated device. The device itself is behind base/device (emulated_device.cc).
#pragma once

#include <cstdint>

namespace lombard::emulation {

// While it lives, what is put into streams by anybody runs in orders drawn from `seed`: of blocks, of
// threads, and of when a stream runs at all (at once, or not before somebody waits for it). Without one, seed
// 0.
class ScopedSeed {
 public:
  explicit ScopedSeed(uint64_t seed);
  ~ScopedSeed();
  ScopedSeed(const ScopedSeed&) = delete;
  ScopedSeed& operator=(const ScopedSeed&) = delete;

 private:
  uint64_t before_;
};

// Of the device, in bytes; 1 GiB until told otherwise. What is allocated stays.
void SetMemoryBytes(uint64_t bytes);

}  // namespace lombard::emulation
