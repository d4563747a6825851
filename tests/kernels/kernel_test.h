// What the kernel tests share: every instruction set of the build as a test parameter, arrays that end where
// memory ends, and random numbers.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/dtype.h"
#include "kernels/cpu_context.h"

namespace lombard {

constexpr double kEpsilon = 0x1p-24;  // fp32 unit roundoff
constexpr DType kAllDTypes[] = {DType::kF32, DType::kF16, DType::kBF16};

// Runs each test body once per instruction set; those this CPU lacks are skipped, by name.
class KernelTest : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    if (GetParam() > DetectIsa()) {
      GTEST_SKIP() << "this CPU has no " << std::string(IsaName(GetParam()))
                   << "; best: " << std::string(IsaName(DetectIsa()));
    }
  }
  CpuContext context() { return {GetParam(), &pool_}; }
  CpuContext serial() { return {GetParam(), nullptr}; }

 private:
  ThreadPool pool_{3};
};

inline std::string IsaParamName(const testing::TestParamInfo<Isa>& info) {
  return std::string(IsaName(info.param));
}

#define LOMBARD_FOR_EVERY_ISA(Suite) \
  INSTANTIATE_TEST_SUITE_P(Isa, Suite, testing::ValuesIn(kAllIsas), IsaParamName)

// `bytes` that end exactly at an unreadable page: a kernel that reads behind its input dies here.
class GuardedBytes {
 public:
  explicit GuardedBytes(size_t bytes) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    mapped_ = (bytes + page - 1) / page * page + page;
    base_ = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(base_ != MAP_FAILED);
    CHECK_EQ(mprotect(static_cast<char*>(base_) + mapped_ - page, page, PROT_NONE), 0);
    data_ = static_cast<char*>(base_) + mapped_ - page - bytes;
  }
  ~GuardedBytes() { munmap(base_, mapped_); }
  GuardedBytes(const GuardedBytes&) = delete;
  GuardedBytes& operator=(const GuardedBytes&) = delete;
  void* data() const { return data_; }

 private:
  void* base_;
  size_t mapped_;
  char* data_;
};

inline std::vector<float> RandomFloats(std::mt19937_64& random, size_t count, float scale = 1) {
  std::uniform_real_distribution<float> uniform(-scale, scale);
  std::vector<float> values(count);
  for (float& v : values) v = uniform(random);
  return values;
}

// Through bytes, since weights may start at any multiple of two.
inline float LoadUnaligned(DType dtype, const void* data, size_t index) {
  const size_t size = DTypeBytes(dtype);
  alignas(4) char element[4];
  std::memcpy(element, static_cast<const char*>(data) + index * size, size);
  return LoadFloat(dtype, element, 0);
}
inline void StoreUnaligned(DType dtype, void* data, size_t index, float value) {
  const size_t size = DTypeBytes(dtype);
  alignas(4) char element[4];
  StoreFloat(dtype, element, 0, value);
  std::memcpy(static_cast<char*>(data) + index * size, element, size);
}

inline int Pick(std::mt19937_64& random, std::initializer_list<int> values) {
  return values.begin()[random() % values.size()];
}

}  // namespace lombard
