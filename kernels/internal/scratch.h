// Scratch memory of one call of a kernel. What a thread has freed it gets again, so that large pieces do not
// come from the system, page by page, in every call (a seventh of the time of a product of 512 rows).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace lombard::internal {

struct ScratchDeleter {
  size_t bytes = 0;
  void operator()(float* memory) const;
};
using FloatBuffer = std::unique_ptr<float[], ScratchDeleter>;

// 64-byte aligned, not initialised. Freed by the thread that made it, which keeps two pieces of at most
// kScratchKeptBytesMax.
FloatBuffer MakeFloats(int64_t count);
constexpr size_t kScratchKeptBytesMax = 16 << 20;

}  // namespace lombard::internal
