// What the benchmarks on a GPU share: memory with noise in it, times between events, ceilings of the machine
// measured in the same run, and their main function.
//
//   gpu_x_bench [--json FILE] [--rounds N] [--smoke]
//
// --smoke: tiny shapes, for the emulated device and for a first try; its figures mean nothing. Exits 77 where
// no GPU is.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/device/gpu_memory.h"
#include "base/device/gpu_stream.h"
#include "bench/bench_support.h"

namespace lombard::bench {

struct Options {
  std::string json;
  int rounds = 0;
  bool smoke = false;
};

template <class T>
T Take(absl::StatusOr<T> value) {
  CHECK_OK(value.status());
  return *std::move(value);
}

// A device, a stream, and a clock between events.
class Device {
 public:
  Device(int device, const Options& options);

  GpuStream& stream() { return stream_; }
  int index() const { return device_; }
  DeviceMemory Allocate(uint64_t bytes) { return Take(DeviceMemory::Create(device_, bytes)); }
  template <class T>
  DeviceMemory Upload(const std::vector<T>& values) {
    return UploadBytes(values.data(), values.size() * sizeof(T));
  }
  // bf16 in [-1, 1], the same 32 Mi of them again and again.
  DeviceMemory Random(uint64_t bytes);
  void FillRandom(void* memory, uint64_t bytes);

  // Median seconds of each, taken in turns, between two events. Before each, 256 MiB are written, so that
  // nothing measured lies in the second-level cache; the host enqueues meanwhile, so launches cost nothing.
  std::vector<double> Time(const std::vector<std::function<void()>>& cases);
  double Time(const std::function<void()>& run) { return Time(std::vector{run})[0]; }
  bool Fits(uint64_t bytes);

 private:
  DeviceMemory UploadBytes(const void* values, uint64_t bytes);

  const Options options_;
  const int device_;
  GpuStream stream_;
  GpuEvent start_, end_;
  DeviceMemory flush_, random_;
};

struct Ceilings {
  double copy_rate = 0;  // bytes read and written per second, of a large copy
  double matrix_rate =
      0;  // bf16 operations per second of an 8192 x 8192 x 8192 product by cuBLASLt; 0: unknown
};
// 0 where the whole is unknown.
inline double Share(double part, double whole) { return whole == 0 ? 0 : part / whole; }
inline double Percent(double part, double whole) { return 100 * Share(part, whole); }

// The figures of a run, in a file that is whole after every row: what was measured before a benchmark aborts
// or runs out of time is kept. Its field "complete" says whether the benchmark came to its end.
class Rows {
 public:
  // An empty path: no file. `head`: fields beside "rows".
  Rows(std::string path, nlohmann::json head);

  // `row`: an object with "name", "median_us", and what else there is to say.
  void Add(nlohmann::json row);
  // False, and said on standard error, where the file could not be written.
  bool Finish();

 private:
  void Write();

  const std::string path_;
  nlohmann::json result_;
  bool written_ = true;
};

// Finds the first GPU, measures the ceilings, calls `run`, which adds rows and prints tables, line by line.
// Returns main's result.
int GpuBenchMain(int argc, char** argv, const std::string& name, int rounds,
                 const std::function<void(Device& device, const Options& options, const Ceilings& ceilings,
                                          Rows& rows)>& run);

}  // namespace lombard::bench
