#include "kernels/internal/kernel_table.h"
#include "kernels/internal/vec_base.h"

#define LOMBARD_ISA isa_base
#include "kernels/internal/attention-inl.h"
#include "kernels/internal/elementwise-inl.h"
#include "kernels/internal/matmul-inl.h"

namespace lombard::internal {

const KernelTable& BaseKernels() {
  static constexpr KernelTable table = isa_base::MakeTable();
  return table;
}

}  // namespace lombard::internal
