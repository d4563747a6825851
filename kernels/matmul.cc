#include "kernels/matmul.h"

#include <algorithm>

#include "base/check.h"
#include "kernels/internal/kernel_table.h"
#if defined(__x86_64__)
#include "kernels/internal/matmul_amx.h"
#endif
#include "kernels/internal/parallel.h"

namespace lombard {
namespace {

// Packed activations of one pass: 129 rows x 512 x 4 bytes, half of a second-level cache.
constexpr int64_t kRowsAtOnce = 129;
constexpr int64_t kBlock = 512;
constexpr int64_t kRowPad = 16;

int64_t RoundUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

// Floats of `rows` rows packed as MatmulBlock::x wants them.
int64_t PackedFloats(int64_t rows, int64_t k, int64_t k_block) {
  const int64_t full = k / k_block, rest = k % k_block;
  return rows * (full * (k_block + kRowPad) + (rest == 0 ? 0 : RoundUp(rest, 64) + kRowPad));
}

void PackRow(const internal::KernelTable& kernels, DType dtype, const float* x, int64_t row, int64_t rows,
             int64_t k, int64_t k_block, float* packed) {
  for (int64_t begin = 0; begin < k; begin += k_block) {
    const int64_t length = std::min(k_block, k - begin), padded = RoundUp(length, 64),
                  stride = padded + kRowPad;
    float* out = packed + row * stride;
    kernels.pack[static_cast<int>(dtype)](x + begin, out, length);
    packed += rows * stride;
  }
}

#if defined(__x86_64__)
// Below, the weights are not worth their way into tiles. Measured at 8 rows (docs/measurements.md): with many
// outputs tiles win by up to 1.5, with 512 they lose by as much.
constexpr int64_t kAmxRowsMin = 8, kAmxRowsMinOfMany = 4, kAmxManyOutputs = 2048;

bool WorthTiles(const MatmulArgs& args) {
  return args.rows > (args.n >= kAmxManyOutputs ? kAmxRowsMinOfMany : kAmxRowsMin);
}

void MatmulAmx(const CpuContext& context, const MatmulArgs& args) {
  constexpr int64_t kPiece =
      2 * internal::kAmxColumns;  // a guess: weights of 64 rows stay in a second-level cache of 2 MiB
  const int64_t scratch_floats = internal::AmxScratchElements(args.k) / 2;
  const internal::FloatBuffer memory =
      internal::MakeFloats(internal::AmxPackedElements(args.rows, args.k) / 2);
  uint16_t* packed = reinterpret_cast<uint16_t*>(memory.get());
  internal::ParallelFor(
      context, static_cast<int>((args.rows + internal::kAmxRows - 1) / internal::kAmxRows), [&](int i) {
        internal::AmxPack(args.x, args.x_stride, args.rows, args.k, int64_t{i} * internal::kAmxRows, packed);
      });
  const int tasks = static_cast<int>((args.n + kPiece - 1) / kPiece);
  internal::ParallelForWithScratch(context, tasks, scratch_floats, [&](int task, float* scratch) {
    internal::AmxBlock block;
    block.packed = packed;
    block.w = static_cast<const uint16_t*>(args.w);
    block.bias = args.bias;
    block.y = args.y, block.y_stride = args.y_stride;
    block.rows = args.rows, block.k = args.k;
    block.n_begin = task * kPiece, block.n_end = std::min(args.n, block.n_begin + kPiece);
    block.accumulate = args.accumulate;
    block.scratch = reinterpret_cast<uint16_t*>(scratch);
    internal::AmxMultiply(block);
  });
}
#endif

// Weights are met in place by as many threads as there are; a task's columns are a multiple of four.
void MatmulPairs(const CpuContext& context, const internal::KernelTable& kernels, const MatmulArgs& args) {
  const int64_t rows = args.rows, k_block = internal::PairsPackBlock(rows);
  int64_t elements = 0;
  for (int64_t k = 0; k < args.k; k += k_block)
    elements += rows * internal::PairsStride(std::min(k_block, args.k - k));
  const internal::FloatBuffer memory = internal::MakeFloats(elements / 2);
  uint16_t* const packed = reinterpret_cast<uint16_t*>(memory.get());
  const auto pack = [&](int r) {
    uint16_t* block = packed;
    for (int64_t k = 0; k < args.k; k += k_block) {
      const int64_t length = std::min(k_block, args.k - k), stride = internal::PairsStride(length);
      kernels.pack_pairs(args.x + r * args.x_stride + k, length, block + r * stride);
      block += rows * stride;
    }
  };
  if (rows * args.k >= 1 << 17) {
    internal::ParallelFor(context, static_cast<int>(rows), pack);
  } else {
    for (int r = 0; r < rows; ++r) pack(r);
  }
  // At least four pieces a thread, of whole groups; where weights stream by, of about 2 MiB, a guess: what was
  // fetched ahead of a piece's end was for nothing.
  const int64_t group = rows <= 8 ? internal::kPairsGroup : 64;
  const int64_t most = rows <= 8 ? RoundUp((1 << 20) / args.k, group) : 256;
  const int64_t piece =
      std::clamp<int64_t>(RoundUp(args.n / (4 * internal::Threads(context)), group), group, most);
  const int tasks = static_cast<int>((args.n + piece - 1) / piece);
  const auto multiply = [&](int task, float* scratch) {
    internal::PairsBlock block;
    block.scratch = reinterpret_cast<uint16_t*>(scratch);
    block.x = packed, block.w = static_cast<const uint16_t*>(args.w), block.bias = args.bias;
    block.y = args.y, block.y_stride = args.y_stride, block.rows = rows, block.k = args.k;
    block.n_begin = task * piece, block.n_end = std::min(args.n, block.n_begin + piece);
    block.accumulate = args.accumulate;
    kernels.matmul_pairs(block);
  };
  internal::ParallelForWithScratch(context, tasks, internal::PairsScratch(rows) / 2, multiply);
}

}  // namespace

void Matmul(const CpuContext& context, const MatmulArgs& args) {
  CHECK(args.rows >= 0 && args.n >= 0 && args.k > 0) << args.rows << " x " << args.n << " x " << args.k;
  CHECK(args.x_stride >= args.k || args.rows <= 1);
  CHECK(args.y_stride >= args.n || args.rows <= 1);
  if (args.rows == 0 || args.n == 0) return;
  const internal::KernelTable& kernels = internal::KernelsFor(context.isa);
#if defined(__x86_64__)
  if (context.isa == Isa::kAmx && args.w_dtype == DType::kBF16 && WorthTiles(args)) {
    MatmulAmx(context, args);
    return;
  }
#endif
  if (args.w_dtype == DType::kBF16 && kernels.matmul_pairs != nullptr)
    return MatmulPairs(context, kernels, args);
  const auto multiply = kernels.matmul[static_cast<int>(args.w_dtype)];

  // Passes of equal size, so that the last one does not pay for a strip of weights with a handful of rows.
  const int64_t passes = (args.rows + kRowsAtOnce - 1) / kRowsAtOnce;
  const int64_t rows_per_pass = RoundUp((args.rows + passes - 1) / passes, kernels.matmul_rows_tile);
  const internal::FloatBuffer packed =
      internal::MakeFloats(PackedFloats(std::min(rows_per_pass, args.rows), args.k, kBlock));
  for (int64_t row = 0; row < args.rows; row += rows_per_pass) {
    const int rows = static_cast<int>(std::min(rows_per_pass, args.rows - row));
    const auto pack = [&](int r) {
      PackRow(kernels, args.w_dtype, args.x + (row + r) * args.x_stride, r, rows, args.k, kBlock,
              packed.get());
    };
    if (rows * args.k >= 1 << 17) {
      internal::ParallelFor(context, rows, pack);
    } else {
      for (int r = 0; r < rows; ++r) pack(r);
    }
    // At least four pieces a thread where there is so much; streams: about 128 KiB of weights.
    const bool streams = rows <= kernels.matmul_stream_rows;
    const int64_t most =
        streams ? std::max<int64_t>(8, RoundUp(65536 / args.k, 8)) : internal::kMatmulColumns;
    const int64_t piece = std::clamp<int64_t>(RoundUp(args.n / (4 * internal::Threads(context)), 8), 8, most);
    const int tasks = static_cast<int>((args.n + piece - 1) / piece);
    internal::ParallelForWithScratch(context, tasks, internal::MatmulScratchFloats(kernels, rows, kBlock),
                                     [&](int task, float* scratch) {
                                       internal::MatmulBlock block;
                                       block.x = packed.get();
                                       block.w = args.w;
                                       block.bias = args.bias;
                                       block.y = args.y + row * args.y_stride;
                                       block.y_stride = args.y_stride;
                                       block.rows = rows;
                                       block.k = args.k;
                                       block.k_block = kBlock;
                                       block.n_begin = task * piece;
                                       block.n_end = std::min(args.n, block.n_begin + piece);
                                       block.accumulate = args.accumulate;
                                       block.scratch = scratch;
                                       multiply(block);
                                     });
  }
}

}  // namespace lombard
