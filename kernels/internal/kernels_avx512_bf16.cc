// AVX-512 with dot products of bf16 pairs: what meets bf16 weights or KV; the rest is AVX-512's.
#include "kernels/internal/attention_bf16-inl.h"
#include "kernels/internal/matmul_bf16-inl.h"

namespace lombard::internal {

const KernelTable& Avx512Bf16Kernels() {
  static const KernelTable table = [] {
    KernelTable own = Avx512Kernels();
    own.matmul_pairs = isa_avx512_bf16::MatmulPairs;
    own.pack_pairs = isa_avx512_bf16::PackPairs;
    own.attend[2] = isa_avx512_bf16::Attend;
    own.attend_heads[2] = 8;  // 32 KiB of keys one behind the other, with 32 keys of 64 elements in a block
    own.attend_half[2] = 0;
    return own;
  }();
  return table;
}

}  // namespace lombard::internal
