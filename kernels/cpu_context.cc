#include "kernels/cpu_context.h"

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "kernels/internal/kernel_table.h"
#if defined(__x86_64__)
#include "kernels/internal/matmul_amx.h"
#endif

namespace lombard {

absl::string_view IsaName(Isa isa) {
  switch (isa) {
    case Isa::kBase:
      return "base";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx512Bf16:
      return "avx512_bf16";
    case Isa::kAmx:
      return "amx";
  }
  return "unknown";
}

Isa DetectIsa() {
#if defined(__x86_64__)
  // The compiler's runtime also asks whether the operating system saves the wide registers.
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("f16c"))
    return Isa::kBase;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl")) {
    return Isa::kAvx2;
  }
  if (!__builtin_cpu_supports("avx512bf16")) return Isa::kAvx512;
  return internal::AmxAvailable() ? Isa::kAmx : Isa::kAvx512Bf16;
#else
  return Isa::kBase;
#endif
}

absl::StatusOr<Isa> ParseIsa(absl::string_view name) {
  for (const Isa isa : kAllIsas) {
    if (name != IsaName(isa)) continue;
    if (isa <= DetectIsa()) return isa;
    return absl::InvalidArgumentError(absl::StrCat("instruction set '", std::string(name),
                                                   "' is not available on this CPU, whose best is '",
                                                   std::string(IsaName(DetectIsa())), "'"));
  }
  return absl::InvalidArgumentError(absl::StrCat("unknown instruction set '", std::string(name),
                                                 "': give base, avx2, avx512, avx512_bf16 or amx"));
}

namespace internal {

const KernelTable& KernelsFor(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::kAvx2) return Avx2Kernels();
  if (isa == Isa::kAvx512) return Avx512Kernels();
  if (isa == Isa::kAvx512Bf16 || isa == Isa::kAmx)
    return Avx512Bf16Kernels();  // AMX: only products differ, see matmul.cc
#endif
  CHECK(isa == Isa::kBase) << "instruction set " << static_cast<int>(isa);
  return BaseKernels();
}

}  // namespace internal
}  // namespace lombard
