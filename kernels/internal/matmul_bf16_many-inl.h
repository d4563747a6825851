// Products of many rows with bf16 weights (VDPBF16PS): a strip of columns and a block of k are laid out anew,
// in the second-level cache, as pairs of as many columns side by side as a vector has lanes; then rows pass
// by, about twelve at a time. Meanwhile the next strip is fetched.
//
// The order of an output's sum: old value, then pairs, k ascending; then bias. The same for every number of
// rows above kFewPairsRows.
#pragma once

#include <immintrin.h>

#include "kernels/internal/kernel_table.h"

namespace lombard::internal::isa_avx512_bf16 {
namespace {

constexpr int64_t kStrip = kPairsStrip;  // columns: two vectors
static_assert(kStrip == 32);

// Row i of v, as sixteen dwords -> column i.
inline __attribute__((always_inline)) void TransposeDwords(__m512i (&v)[16]) {
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {  // v[i + j]: rows i to i + 3, dword j of each quarter
    v[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    v[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    v[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    v[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512i a = _mm512_shuffle_i32x4(v[j], v[j + 4], 0x88),
                  b = _mm512_shuffle_i32x4(v[j], v[j + 4], 0xdd),
                  c = _mm512_shuffle_i32x4(v[j + 8], v[j + 12], 0x88),
                  d = _mm512_shuffle_i32x4(v[j + 8], v[j + 12], 0xdd);
    t[j] = _mm512_shuffle_i32x4(a, c, 0x88);
    t[j + 4] = _mm512_shuffle_i32x4(b, d, 0x88);
    t[j + 8] = _mm512_shuffle_i32x4(a, c, 0xdd);
    t[j + 12] = _mm512_shuffle_i32x4(b, d, 0xdd);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) v[i] = t[i];
}

// w [columns, length], rows of w_stride -> packed [length rounded up to 32, / 2][kStrip] pairs, zeros behind.
void PackStrip(const uint16_t* w, int64_t w_stride, int64_t columns, int64_t length, uint16_t* packed) {
  for (int64_t half = 0; half < kStrip; half += 16) {
    const uint16_t* rows[16];
    for (int64_t c = 0; c < 16; ++c) rows[c] = w + (half + c < columns ? half + c : 0) * w_stride;
    for (int64_t k = 0; k < length; k += 32) {
      const __mmask32 have = length - k >= 32 ? ~__mmask32{0} : (__mmask32{1} << (length - k)) - 1;
      __m512i v[16];
#pragma GCC unroll 16
      for (int c = 0; c < 16; ++c) v[c] = _mm512_maskz_loadu_epi16(have, rows[c] + k);
      TransposeDwords(v);
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) _mm512_store_si512(packed + (k / 2 + i) * 2 * kStrip + 2 * half, v[i]);
    }
  }
}

struct StripBlock {
  const uint16_t* x;       // [rows, x_stride], of this block of k
  const uint16_t* packed;  // PackStrip
  int64_t x_stride, length;
  float* y;  // its first row and column
  int64_t y_stride;
  __mmask16 have[2];  // columns of each half
  bool fresh;         // y does not count
  const float* bias;  // is added at the end, or null
};

// Weights that are fetched into the second-level cache meanwhile.
struct StripAhead {
  const uint16_t* w;
  int64_t w_stride, columns;
};

// M rows from m on.
template <int M>
void StripTile(const StripBlock& b, int64_t m, const StripAhead& ahead) {
  const uint16_t* x = b.x + m * b.x_stride;
  float* y = b.y + m * b.y_stride;
  __m512 sums[M][2];
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i) {
    for (int h = 0; h < 2; ++h) {
      sums[i][h] =
          b.fresh ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(b.have[h], y + i * b.y_stride + 16 * h);
    }
  }
  for (int64_t line = 0; line < b.length; line += 32) {
    for (int64_t c = 0; c < ahead.columns; ++c)
      _mm_prefetch(reinterpret_cast<const char*>(ahead.w + c * ahead.w_stride + line), _MM_HINT_T1);
    for (int64_t k = line; k < line + 32; k += 2) {
      const __m512i w[2] = {_mm512_load_si512(b.packed + k * kStrip),
                            _mm512_load_si512(b.packed + k * kStrip + 32)};
#pragma GCC unroll 16
      for (int i = 0; i < M; ++i) {
        int pair;
        __builtin_memcpy(&pair, x + i * b.x_stride + k, sizeof(pair));
        const __m512i xs = _mm512_set1_epi32(pair);
        sums[i][0] = _mm512_dpbf16_ps(sums[i][0], (__m512bh)xs, (__m512bh)w[0]);
        sums[i][1] = _mm512_dpbf16_ps(sums[i][1], (__m512bh)xs, (__m512bh)w[1]);
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i) {
    for (int h = 0; h < 2; ++h) {
      if (b.bias != nullptr)
        sums[i][h] = _mm512_add_ps(sums[i][h], _mm512_maskz_loadu_ps(b.have[h], b.bias + 16 * h));
      _mm512_mask_storeu_ps(y + i * b.y_stride + 16 * h, b.have[h], sums[i][h]);
    }
  }
}

void PairsMany(const PairsBlock& b) {
  const int64_t tiles = (b.rows + 11) / 12;
  const uint16_t* x = b.x;
  for (int64_t k = 0; k < b.k; k += kPairsBlock) {
    const int64_t length = b.k - k < kPairsBlock ? b.k - k : kPairsBlock, stride = PairsStride(length);
    for (int64_t n = b.n_begin; n < b.n_end; n += kStrip) {
      const auto columns = [&](int64_t first) {
        return first >= b.n_end ? 0 : first + kStrip < b.n_end ? kStrip : b.n_end - first;
      };
      const auto have = [](int64_t count) {
        return static_cast<__mmask16>(count >= 16 ? 0xffff : count <= 0 ? 0 : (1 << count) - 1);
      };
      PackStrip(b.w + n * b.k + k, b.k, columns(n), length, b.scratch);
      const StripBlock strip{.x = x,
                             .packed = b.scratch,
                             .x_stride = stride,
                             .length = (length + 31) / 32 * 32,
                             .y = b.y + n,
                             .y_stride = b.y_stride,
                             .have = {have(columns(n)), have(columns(n) - 16)},
                             .fresh = k == 0 && !b.accumulate,
                             .bias = k + length == b.k && b.bias != nullptr ? b.bias + n : nullptr};
      int64_t m = 0;
      for (int64_t tile = 0; tile < tiles; ++tile) {
        // An equal share of the next strip's columns with each tile.
        const int64_t next = columns(n + kStrip), from = next * tile / tiles, to = next * (tile + 1) / tiles;
        const StripAhead ahead{b.w + (n + kStrip + from) * b.k + k, b.k, to - from};
        switch ((b.rows - m + tiles - tile - 1) / (tiles - tile)) {
          case 8:
            StripTile<8>(strip, m, ahead), m += 8;
            break;
          case 9:
            StripTile<9>(strip, m, ahead), m += 9;
            break;
          case 10:
            StripTile<10>(strip, m, ahead), m += 10;
            break;
          case 11:
            StripTile<11>(strip, m, ahead), m += 11;
            break;
          default:
            StripTile<12>(strip, m, ahead), m += 12;
        }
      }
    }
    x += b.rows * stride;
  }
}

}  // namespace
}  // namespace lombard::internal::isa_avx512_bf16
