#include "kernels/internal/scratch.h"

#include <array>
#include <cstdlib>
#include <utility>

#include "base/check.h"

namespace lombard::internal {
namespace {

struct Piece {
  float* memory = nullptr;
  size_t bytes = 0;
};

struct Kept {
  std::array<Piece, 2> pieces;
  ~Kept() {
    for (const Piece& piece : pieces) std::free(piece.memory);
  }
};
thread_local Kept kept;

}  // namespace

FloatBuffer MakeFloats(int64_t count) {
  const size_t bytes = (static_cast<size_t>(count) * sizeof(float) + 64) / 64 * 64;
  for (Piece& piece : kept.pieces) {
    if (piece.bytes < bytes) continue;
    const Piece taken = std::exchange(piece, {});
    return FloatBuffer(taken.memory, {taken.bytes});
  }
  float* memory = static_cast<float*>(std::aligned_alloc(64, bytes));
  CHECK(memory != nullptr) << "no memory for " << bytes << " bytes of scratch";
  return FloatBuffer(memory, {bytes});
}

// The larger ones are kept.
void ScratchDeleter::operator()(float* memory) const {
  Piece freed{memory, bytes};
  if (bytes <= kScratchKeptBytesMax) {
    Piece& smaller = kept.pieces[0].bytes <= kept.pieces[1].bytes ? kept.pieces[0] : kept.pieces[1];
    if (smaller.bytes < bytes) std::swap(smaller, freed);
  }
  std::free(freed.memory);
}

}  // namespace lombard::internal
