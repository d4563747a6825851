// Loops over a context's threads.
#pragma once

#include <atomic>
#include <cstdint>

#include "absl/functional/function_ref.h"
#include "kernels/cpu_context.h"
#include "kernels/internal/scratch.h"

namespace lombard::internal {

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
