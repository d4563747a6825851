#include "kernels/internal/vec_base.h"
#define LOMBARD_ISA isa_base
#include "kernels/internal/attention-inl.h"

namespace lombard::internal {

const KernelTable& BaseKernels() {
  static constexpr KernelTable table = isa_base::MakeTable();
  return table;
}

}  // namespace lombard::internal
