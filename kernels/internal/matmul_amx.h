// bf16 products of many rows on AMX tiles: weights in place as the tile's rows (A), activations packed as its
// columns (B).
#pragma once

#include <cstdint>

namespace lombard::internal {

// Whether CPU and kernel have AMX bf16; asks the kernel for the tile registers once per process.
bool AmxAvailable();

inline constexpr int kAmxRows = 32;     // activation rows of one register tile
inline constexpr int kAmxColumns = 32;  // outputs per row of one register tile
// 16-bit elements of `rows` packed rows, both sides rounded up to whole tiles.
constexpr int64_t AmxPackedElements(int64_t rows, int64_t k) {
  return (rows + kAmxRows - 1) / kAmxRows * kAmxRows * ((k + 31) / 32 * 32);
}
// Packs the tile of activation rows that begins at row `first` (a multiple of kAmxRows), rounded to bf16,
// zeros behind k and rows.
void AmxPack(const float* x, int64_t x_stride, int64_t rows, int64_t k, int64_t first, uint16_t* packed);

// y[m, n] for all rows and n in [n_begin, n_end), as MatmulBlock. One output's sum runs over k in ascending
// pairs, whatever the rows; it is not the order of the vector kernels.
struct AmxBlock {
  const uint16_t* packed = nullptr;
  const uint16_t* w = nullptr;
  const float* bias = nullptr;
  float* y = nullptr;
  int64_t y_stride = 0, rows = 0, k = 0, n_begin = 0, n_end = 0;
  bool accumulate = false;
  uint16_t* scratch = nullptr;  // AmxScratchElements(k), 64-byte aligned
};
constexpr int64_t AmxScratchElements(int64_t k) { return kAmxColumns * ((k + 31) / 32 * 32); }
void AmxMultiply(const AmxBlock& block);

}  // namespace lombard::internal
