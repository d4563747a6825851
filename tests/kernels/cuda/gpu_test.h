// What the tests of GPU kernels share. Each runs on the emulated device, once per seed (threads, blocks and
// streams take turns in another order), and in its other program on a GPU, where there is one.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/device/gpu_info.h"
#include "base/device/gpu_memory.h"
#include "base/device/gpu_status.h"
#include "base/device/gpu_stream.h"
#include "tests/kernels/kernel_test.h"
#ifdef LOMBARD_EMULATED_GPU
#include "tests/emulation/emulated_device.h"
#endif

namespace lombard {

// The parameter is the seed, also of the test's random numbers.
class GpuTest : public testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    const GpuSearch found = FindGpus();
    if (found.gpus.empty()) GTEST_SKIP() << "no GPU: " << found.reason;
    absl::StatusOr<GpuStream> stream = GpuStream::Create(found.gpus[0].device);
    ASSERT_TRUE(stream.ok()) << stream.status();
    stream_.emplace(*std::move(stream));
  }
  GpuStream& stream() { return *stream_; }
  std::mt19937_64& random() { return random_; }

  DeviceMemory Allocate(uint64_t bytes) {
    absl::StatusOr<DeviceMemory> memory = DeviceMemory::Create(stream().device(), bytes);
    CHECK_OK(memory.status());
    return *std::move(memory);
  }
  template <class T>
  DeviceMemory Upload(const std::vector<T>& values) {
    const uint64_t bytes = values.size() * sizeof(T);
    DeviceMemory memory = Allocate(bytes);
    absl::StatusOr<PinnedMemory> pinned = PinnedMemory::Create(stream().device(), bytes);
    CHECK_OK(pinned.status());
    if (bytes != 0) std::memcpy(pinned->data(), values.data(), bytes);
    CHECK_OK(stream().Copy(memory.data(), pinned->data(), bytes));
    CHECK_OK(stream().Synchronize());
    return memory;
  }
  // After everything that the stream has been given. What went wrong in it is the test's failure.
  template <class T>
  std::vector<T> Download(const DeviceMemory& memory) {
    std::vector<T> values(memory.bytes() / sizeof(T));
    absl::StatusOr<PinnedMemory> pinned = PinnedMemory::Create(stream().device(), memory.bytes());
    CHECK_OK(pinned.status());
    absl::Status status = stream().Copy(pinned->data(), memory.data(), memory.bytes());
    if (status.ok()) status = stream().Synchronize();
    EXPECT_TRUE(status.ok()) << status;
    if (!values.empty()) std::memcpy(values.data(), pinned->data(), values.size() * sizeof(T));
    return values;
  }

 private:
#ifdef LOMBARD_EMULATED_GPU
  emulation::ScopedSeed seed_{static_cast<uint64_t>(GetParam())};
#endif
  std::mt19937_64 random_{static_cast<uint64_t>(GetParam())};
  std::optional<GpuStream> stream_;
};

#ifdef LOMBARD_EMULATED_GPU
constexpr int kGpuSeeds = 6;
#else
constexpr int kGpuSeeds = 1;
#endif
#define LOMBARD_FOR_EVERY_GPU_SEED(Suite) \
  INSTANTIATE_TEST_SUITE_P(Seed, Suite, testing::Range(1, 1 + kGpuSeeds))

#define EXPECT_LAUNCHED(error)                                                              \
  if (const absl::Status launch_status = ToStatus(error); !launch_status.ok()) [[unlikely]] \
  FAIL() << launch_status

// Elements of `dtype` as bytes, from fp32, and back.
inline std::vector<char> Encode(DType dtype, const std::vector<float>& values) {
  std::vector<char> bytes(values.size() * DTypeBytes(dtype));
  for (size_t i = 0; i < values.size(); ++i) StoreUnaligned(dtype, bytes.data(), i, values[i]);
  return bytes;
}
inline std::vector<float> Decode(DType dtype, const std::vector<char>& bytes) {
  std::vector<float> values(bytes.size() / DTypeBytes(dtype));
  for (size_t i = 0; i < values.size(); ++i) values[i] = LoadUnaligned(dtype, bytes.data(), i);
  return values;
}

// The pairs that kernels are compiled for (kernels/cuda/dispatch.h).
struct TypePair {
  DType in, out;
  friend std::ostream& operator<<(std::ostream& stream, const TypePair& pair) {
    return stream << DTypeName(pair.in) << " to " << DTypeName(pair.out);
  }
};
constexpr TypePair kGpuTypePairs[] = {{DType::kF32, DType::kF32},
                                      {DType::kF16, DType::kF16},
                                      {DType::kBF16, DType::kBF16},
                                      {DType::kF32, DType::kF16},
                                      {DType::kF32, DType::kBF16}};

// How far a value of `dtype` may be from what was rounded to it (nearest), absolutely: half a unit in the
// last place, which in fp16 does not fall below the subnormals' one.
inline double RoundingOf(DType dtype, double value) {
  const double magnitude = std::abs(value);
  switch (dtype) {
    case DType::kF32:
      return magnitude * 0x1p-24;
    case DType::kF16:
      return std::max(magnitude * 0x1p-11, 0x1p-25);
    case DType::kBF16:
      return magnitude * 0x1p-8;
  }
  return 0;
}

}  // namespace lombard
