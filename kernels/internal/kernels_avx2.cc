#include "kernels/internal/vec_avx2.h"
#define LOMBARD_ISA isa_avx2
#include "kernels/internal/attention-inl.h"

namespace lombard::internal {

const KernelTable& Avx2Kernels() {
  static constexpr KernelTable table = isa_avx2::MakeTable();
  return table;
}

}  // namespace lombard::internal
