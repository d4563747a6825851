// How the attention kernels for 16-bit types lay keys out in shared memory, and the constants of their
// softmax. Plain C++, tested on the host.
#pragma once

namespace lombard {

// Elements between rows of head_dim elements: an odd number of 16-byte pieces, so that the 8 rows of a matrix
// that ldmatrix reads lie in 8 different groups of banks.
constexpr int PaddedRow(int head_dim) { return (head_dim / 8 | 1) * 8; }

// Scores are kept times log2(e), for exp2; the states' maxima are natural.
constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

}  // namespace lombard
