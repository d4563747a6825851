// A cuBLASLt that computes at once, in this process's memory, as its documentation says: column-major
// matrices with leading dimensions, op(A) op(B), beta C, a bias per row of D. It proves what we ask of the
// library, not the library.
#pragma once

#include "kernels/cuda/cublas_lt.h"

namespace lombard {

CublasLt FakeCublasLt();
int FakeHeuristicCalls();  // ever

}  // namespace lombard
