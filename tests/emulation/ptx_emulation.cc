// The instructions of kernels/cuda/ptx.cuh, lane by lane, as the PTX ISA describes them.
#include <array>

#include "base/check.h"
#include "tests/emulation/cuda_emulation.h"

namespace lombard::emulation {
namespace {

struct MatrixLane {
  uint32_t r[4];
  const void* row;
};

uint16_t Element(const void* row, int column) {
  uint16_t bits;
  std::memcpy(&bits, static_cast<const char*>(row) + 2 * column, 2);
  return bits;
}

template <bool kTransposed>
void LoadMatrices(void* const operands[], uint32_t) {
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4, t = lane % 4;
    for (int m = 0; m < 4; ++m) {
      const auto at = [&](int row, int column) {
        return uint32_t{Element(static_cast<MatrixLane*>(operands[8 * m + row])->row, column)};
      };
      static_cast<MatrixLane*>(operands[lane])->r[m] =
          kTransposed ? at(2 * t, g) | at(2 * t + 1, g) << 16 : at(g, 2 * t) | at(g, 2 * t + 1) << 16;
    }
  }
}

struct TransposeLane {
  uint32_t r, transposed;
};

void Transpose(void* const operands[], uint32_t) {
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4, t = lane % 4;
    const auto at = [&](int row, int column) {
      const uint32_t pair = static_cast<TransposeLane*>(operands[4 * row + column / 2])->r;
      return column % 2 == 0 ? pair & 0xffff : pair >> 16;
    };
    static_cast<TransposeLane*>(operands[lane])->transposed = at(2 * t, g) | at(2 * t + 1, g) << 16;
  }
}

struct ProductLane {
  float c[4];
  uint32_t a[4], b[2];
};

template <DType kDType>
void Product(void* const operands[], uint32_t) {
  const auto lane_of = [&](int lane) -> ProductLane& { return *static_cast<ProductLane*>(operands[lane]); };
  const auto half = [](uint32_t pair, int upper) {
    const uint16_t bits = static_cast<uint16_t>(upper ? pair >> 16 : pair);
    return double{kDType == DType::kF16 ? FloatFromF16(bits) : FloatFromBF16(bits)};
  };
  std::array<std::array<double, 16>, 16> a;  // [row][k]
  std::array<std::array<double, 8>, 16> b;   // [k][column]
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4, t = lane % 4;
    for (int upper = 0; upper < 2; ++upper) {
      for (int i = 0; i < 4; ++i)
        a[g + 8 * (i % 2)][2 * t + 8 * (i / 2) + upper] = half(lane_of(lane).a[i], upper);
      for (int i = 0; i < 2; ++i) b[2 * t + 8 * i + upper][g] = half(lane_of(lane).b[i], upper);
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; ++i) {
      const int row = g + 8 * (i / 2), column = 2 * t + i % 2;
      double sum = double{lane_of(lane).c[i]};
      for (int k = 0; k < 16; ++k) sum += a[row][k] * b[k][column];
      float rounded = static_cast<float>(sum);
      // The hardware truncates; so do we, that tests allow for it.
      if (std::isfinite(rounded) && std::abs(double{rounded}) > std::abs(sum))
        rounded = std::nextafter(rounded, 0.0f);
      lane_of(lane).c[i] = rounded;
    }
  }
}

}  // namespace

void CpAsync(void* shared, const void* global, uint32_t bytes, bool valid, Place place) {
  BlockRunner& block = *BlockRunner::Current();
  CheckAligned(shared, bytes, place);
  if (valid) CheckAligned(global, bytes, place);
  if (!block.IsShared(shared, bytes)) block.Fault("cp.async to what is not shared memory", place);
  // From now on the bytes may change at any time, and they may be read by nobody before the wait.
  std::memset(shared, 0xff, bytes);
  Thread& self = block.thread();
  self.copies.push_back({shared, global, bytes, valid, self.groups});
}

void CpAsyncCommit() { ++Self().groups; }

void CpAsyncWait(uint32_t pending) {
  Thread& self = Self();
  const uint32_t done = self.groups > pending ? self.groups - pending : 0;  // groups [0, done) have landed
  std::erase_if(self.copies, [&](const AsyncCopy& copy) {
    if (copy.group >= done) return false;
    if (copy.valid) {
      std::memcpy(copy.shared, copy.global, copy.bytes);
    } else {
      std::memset(copy.shared, 0, copy.bytes);
    }
    return true;
  });
}

void LdMatrixX4(uint32_t (&r)[4], const void* row, bool transposed, Place place) {
  BlockRunner& block = *BlockRunner::Current();
  CheckAligned(row, 16, place);
  if (!block.IsShared(row, 16)) block.Fault("ldmatrix from what is not shared memory", place);
  MatrixLane lane{{}, row};
  block.Warp("ldmatrix", 0xffffffffu, &lane, transposed ? &LoadMatrices<true> : &LoadMatrices<false>, place);
  std::memcpy(r, lane.r, sizeof lane.r);
}

uint32_t TransposeMatrix(uint32_t r, Place place) {
  TransposeLane lane{r, 0};
  BlockRunner::Current()->Warp("movmatrix", 0xffffffffu, &lane, &Transpose, place);
  return lane.transposed;
}

void MmaBits(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], DType dtype, Place place) {
  ProductLane lane;
  std::memcpy(lane.c, c, sizeof c);
  std::memcpy(lane.a, a, sizeof a);
  std::memcpy(lane.b, b, sizeof b);
  BlockRunner::Current()->Warp("mma.sync", 0xffffffffu, &lane,
                               dtype == DType::kF16 ? &Product<DType::kF16> : &Product<DType::kBF16>, place);
  std::memcpy(c, lane.c, sizeof c);
}

float Exp2(float x) {
  if (x < -126.0f) return 0.0f;
  const float y = std::exp2(x);
  if (x == 0.0f || !std::isfinite(y)) return y;
  // As wrong as the instruction may be: one unit up or down, drawn from the argument's bits.
  const uint32_t hash = std::bit_cast<uint32_t>(x) * 2654435761u >> 30;
  return hash == 0 ? std::nextafter(y, 0.0f) : hash == 1 ? std::nextafter(y, 2 * y) : y;
}

}  // namespace lombard::emulation
