// Weights for benchmarks: numbers that nobody chose, made where they are needed.
#pragma once

#include <cstdint>

#include "base/device/gpu_error.h"
#include "base/dtype.h"

namespace lombard {

// Fills `count` elements of dtype, device memory, with values in [-scale, scale), a function of (seed, index)
// alone; spread evenly, independent as far as products can tell.
GpuError GpuFillRandom(GpuStreamRef stream, DType dtype, void* data, int64_t count, float scale,
                       uint32_t seed);

}  // namespace lombard
