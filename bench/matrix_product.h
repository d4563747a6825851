// The ceiling of this machine's products: 256 rows, as those of a shared prefix are, with a bf16 matrix that
// fits the caches.
#pragma once

#include <cstdint>
#include <vector>

#include "base/dtype.h"
#include "kernels/matmul.h"

namespace lombard::bench {

class MatrixProduct {
 public:
  double operations() const { return 2.0 * kRows * kSide * kSide; }  // of one Run
  void Run(const CpuContext& context) {
    Matmul(context, {.x = x_.data(),
                     .w = w_.data(),
                     .w_dtype = DType::kBF16,
                     .y = y_.data(),
                     .rows = kRows,
                     .n = kSide,
                     .k = kSide,
                     .x_stride = kSide,
                     .y_stride = kSide});
  }

 private:
  static constexpr int64_t kRows = 256, kSide = 1024;
  std::vector<uint16_t> w_ = std::vector<uint16_t>(kSide * kSide, BF16FromFloat(0.5f));
  std::vector<float> x_ = std::vector<float>(kRows * kSide, 0.5f), y_ = std::vector<float>(kRows * kSide);
};

}  // namespace lombard::bench
