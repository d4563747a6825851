#include "kernels/internal/matmul_amx.h"

#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace lombard::internal {
namespace {

constexpr int kArchRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
constexpr int kTileData = 18;                   // XFEATURE_XTILEDATA

bool RequestTiles() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return false;
  const bool has_bf16 = (edx >> 22) & 1, has_tiles = (edx >> 24) & 1;
  return has_bf16 && has_tiles && syscall(SYS_arch_prctl, kArchRequestPermission, kTileData) == 0;
}

// Palette 1: all eight tiles of 16 rows x 64 bytes.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64);

inline uint16_t RoundToBf16(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

// sums [n 32][m 32] of one register tile to y, turned: 4 x 4 at a time.
void Finish(const AmxBlock& b, const float* sums, int64_t m_begin, int64_t n_begin) {
  const int64_t m_count = b.rows - m_begin < kAmxRows ? b.rows - m_begin : kAmxRows;
  const int64_t n_count = b.n_end - n_begin < kAmxColumns ? b.n_end - n_begin : kAmxColumns;
  for (int64_t n = 0; n < n_count; n += 4) {
    for (int64_t m = 0; m < m_count; m += 4) {
      const float* from = sums + n * kAmxRows + m;
      __m128 quads[4] = {_mm_loadu_ps(from), _mm_loadu_ps(from + kAmxRows), _mm_loadu_ps(from + 2 * kAmxRows),
                         _mm_loadu_ps(from + 3 * kAmxRows)};
      _MM_TRANSPOSE4_PS(quads[0], quads[1], quads[2], quads[3]);
      for (int64_t i = 0; i < 4 && m + i < m_count; ++i) {
        float* y = b.y + (m_begin + m + i) * b.y_stride + n_begin + n;
        __m128 values = quads[i];
        if (n + 4 <= n_count) {
          if (b.bias != nullptr) values = _mm_add_ps(values, _mm_loadu_ps(b.bias + n_begin + n));
          if (b.accumulate) values = _mm_add_ps(values, _mm_loadu_ps(y));
          _mm_storeu_ps(y, values);
          continue;
        }
        float singles[4];
        _mm_storeu_ps(singles, values);
        for (int64_t j = 0; n + j < n_count; ++j) {
          float value = singles[j];
          if (b.bias != nullptr) value += b.bias[n_begin + n + j];
          y[j] = b.accumulate ? value + y[j] : value;
        }
      }
    }
  }
}

}  // namespace

bool AmxAvailable() {
  static const bool available = RequestTiles();
  return available;
}

// Layout: [tile of 16 rows][k / 2][16 rows][2], so that a B tile (16 pairs of k x 16 rows) is 1 KiB in one
// piece.
void AmxPack(const float* x, int64_t x_stride, int64_t rows, int64_t k, int64_t first, uint16_t* packed) {
  const int64_t padded = (k + 31) / 32 * 32;
  for (int64_t m = first; m < first + kAmxRows; ++m) {
    uint16_t* out = packed + m / 16 * 16 * padded + m % 16 * 2;
    for (int64_t i = 0; i < padded; ++i) {
      out[i / 2 * 32 + i % 2] = m < rows && i < k ? RoundToBf16(x[m * x_stride + i]) : 0;
    }
  }
}

void AmxMultiply(const AmxBlock& b) {
  const TileConfig config;
  _tile_loadconfig(&config);
  const int64_t padded = (b.k + 31) / 32 * 32;
  for (int64_t n = b.n_begin; n < b.n_end; n += kAmxColumns) {
    const uint16_t* w = b.w + n * b.k;
    int64_t stride = b.k;
    // Rows or columns that a whole tile would overrun go through a padded copy.
    if (n + kAmxColumns > b.n_end || b.k != padded) {
      for (int64_t i = 0; i < kAmxColumns; ++i) {
        const int64_t have = n + i < b.n_end ? b.k : 0;
        if (have != 0) __builtin_memcpy(b.scratch + i * padded, w + i * b.k, have * sizeof(uint16_t));
        for (int64_t j = have; j < padded; ++j) b.scratch[i * padded + j] = 0;
      }
      w = b.scratch, stride = padded;
    }
    const uint16_t* w_low = w + 16 * stride;
    const int64_t stride_bytes = stride * static_cast<int64_t>(sizeof(uint16_t));
    for (int64_t m = 0; m < b.rows; m += kAmxRows) {
      const uint16_t* x = b.packed + m * padded;
      const uint16_t* x_right = x + 16 * padded;
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
      for (int64_t k = 0; k < padded; k += 32) {
        _tile_loadd(4, w + k, stride_bytes);
        _tile_loadd(5, w_low + k, stride_bytes);
        _tile_loadd(6, x + k * 16, 64);
        _tile_loadd(7, x_right + k * 16, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
      }
      alignas(64) float sums[kAmxColumns * kAmxRows];
      constexpr int64_t kRowBytes = kAmxRows * sizeof(float);
      _tile_stored(0, sums, kRowBytes);
      _tile_stored(1, sums + 16, kRowBytes);
      _tile_stored(2, sums + 16 * kAmxRows, kRowBytes);
      _tile_stored(3, sums + 16 * kAmxRows + 16, kRowBytes);
      Finish(b, sums, m, n);
    }
  }
  _tile_release();
}

}  // namespace lombard::internal
