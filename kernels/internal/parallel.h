// Loops over a context's threads, and their scratch memory.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>

#include "absl/functional/function_ref.h"
#include "base/check.h"
#include "kernels/cpu_context.h"

namespace lombard::internal {

struct FreeDeleter {
  void operator()(float* p) const { std::free(p); }
};
using FloatBuffer = std::unique_ptr<float[], FreeDeleter>;

// 64-byte aligned, not initialised.
inline FloatBuffer MakeFloats(int64_t count) {
  const size_t bytes = (static_cast<size_t>(count) * sizeof(float) + 63) / 64 * 64;
  float* memory = static_cast<float*>(std::aligned_alloc(64, bytes == 0 ? 64 : bytes));
  CHECK(memory != nullptr) << "no memory for " << bytes << " bytes of scratch";
  return FloatBuffer(memory);
}

inline int Threads(const CpuContext& context) {
  return context.pool == nullptr ? 1 : context.pool->threads();
}

inline void ParallelFor(const CpuContext& context, int count, absl::FunctionRef<void(int)> body) {
  if (context.pool != nullptr && count > 1) {
    context.pool->Run(count, body);
  } else {
    for (int i = 0; i < count; ++i) body(i);
  }
}

// body(task, scratch): each thread keeps its own `scratch_floats` for all its tasks.
inline void ParallelForWithScratch(const CpuContext& context, int count, int64_t scratch_floats,
                                   absl::FunctionRef<void(int, float*)> body) {
  const int workers = count < Threads(context) ? count : Threads(context);
  const int64_t each = (scratch_floats + 15) / 16 * 16 + 16;
  const FloatBuffer scratch = MakeFloats(each * workers);
  std::atomic<int> next{0};
  ParallelFor(context, workers, [&](int worker) {
    for (int task; (task = next.fetch_add(1, std::memory_order_relaxed)) < count;)
      body(task, scratch.get() + each * worker);
  });
}

}  // namespace lombard::internal
