// What a test may set of the emulated device. The device itself is behind base/device (emulated_device.cc).
#pragma once

#include <cstdint>
#include <functional>

#include "base/device/gpu_error.h"

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

// While it lives, streams run nothing before somebody waits for it, whatever the seed says.
class ScopedLateStreams {
 public:
  ScopedLateStreams();
  ~ScopedLateStreams();
  ScopedLateStreams(const ScopedLateStreams&) = delete;
  ScopedLateStreams& operator=(const ScopedLateStreams&) = delete;
};

// Of the device, in bytes; 1 GiB until told otherwise. What is allocated stays.
void SetMemoryBytes(uint64_t bytes);

// While it lives, another process takes so many bytes of the device between any two looks at what is free.
class ScopedNeighbor {
 public:
  explicit ScopedNeighbor(uint64_t bytes);
  ~ScopedNeighbor();
  ScopedNeighbor(const ScopedNeighbor&) = delete;
  ScopedNeighbor& operator=(const ScopedNeighbor&) = delete;
};

// The calling thread's, as MakeGpuCurrent left it; 0 at first.
int CurrentDevice();

// Puts something into the stream that may have to wait for another stream: `poll` answers kNotReady until it
// is done, then 0 or cudaError_t's number. It is called with the device locked, and may be called any number
// of times.
constexpr int kNotReady = 600;  // cudaErrorNotReady
int EnqueueWaiting(GpuStreamRef stream, const char* name, std::function<int()> poll);

// Graphs that were launched so far, by anybody.
uint64_t GraphLaunches();

// How long the host waits for a stream while nothing moves in any, before the device reports that they wait
// for each other; 2000 until told otherwise.
void SetPatienceMs(int milliseconds);

}  // namespace lombard::emulation
