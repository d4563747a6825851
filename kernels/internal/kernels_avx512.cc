#include "kernels/internal/vec_avx512.h"
#define LOMBARD_ISA isa_avx512
#include "kernels/internal/attention-inl.h"

namespace lombard::internal {

const KernelTable& Avx512Kernels() {
  static constexpr KernelTable table = isa_avx512::MakeTable();
  return table;
}

}  // namespace lombard::internal
