// What every CPU kernel is told about where it runs.
#pragma once

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/thread_pool.h"

namespace lombard {

// Instruction sets, weakest first; each includes those before it. Names on the command line: base, avx2,
// avx512, avx512_bf16, amx.
enum class Isa : uint8_t { kBase, kAvx2, kAvx512, kAvx512Bf16, kAmx };
inline constexpr Isa kAllIsas[] = {Isa::kBase, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16, Isa::kAmx};

absl::string_view IsaName(Isa isa);
Isa DetectIsa();  // the best this CPU and operating system offer
// kInvalidArgument: unknown, or better than DetectIsa().
absl::StatusOr<Isa> ParseIsa(absl::string_view name);

// Passed by value. `pool` is not owned; nullptr: the caller's thread alone.
struct CpuContext {
  Isa isa = Isa::kBase;
  ThreadPool* pool = nullptr;
};

}  // namespace lombard
