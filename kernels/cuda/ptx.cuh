// Instructions that C++ does not name: one function each, inline PTX on a GPU, lane by lane under emulation.
// All are of sm_80. "The warp's": all 32 lanes must call it together.
//
// Fragments of the matrix product, lane = 4 g + t (PTX ISA, mma.m16n8k16 with .f16 and .bf16):
//
//   A [16, 16]  a[0]: row g, columns 2t, 2t+1      a[1]: row g+8, the same columns
//               a[2]: row g, columns 2t+8, 2t+9    a[3]: row g+8, the same
//   B [16, 8]   b[0]: rows 2t, 2t+1, column g      b[1]: rows 2t+8, 2t+9, column g
//   C [16, 8]   c[0], c[1]: row g, columns 2t, 2t+1   c[2], c[3]: row g+8, the same columns
//
// In a register of two elements the lower column (of A and C) or row (of B) has the lower half.
#pragma once

#include <type_traits>

#include "kernels/cuda/element.cuh"

namespace lombard::ptx {

// Copies 16 bytes from global to shared memory without the thread's registers; both 16-byte aligned. With
// !valid, writes zeros and reads nothing. The bytes are there for this thread after the CpAsyncWait of their
// group, for others after a barrier behind that.
LOMBARD_DEVICE void CpAsync16(void* shared, const void* global, bool valid = true) {
#ifdef __CUDACC__
  const uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(valid ? 16 : 0)
               : "memory");
#else
  emulation::CpAsync(shared, global, 16, valid);
#endif
}
// Ends this thread's group of copies.
LOMBARD_DEVICE void CpAsyncCommit() {
#ifdef __CUDACC__
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  emulation::CpAsyncCommit();
#endif
}
// Waits until at most kPending of this thread's newest groups are under way.
template <int kPending>
LOMBARD_DEVICE void CpAsyncWait() {
#ifdef __CUDACC__
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#else
  emulation::CpAsyncWait(kPending);
#endif
}

// The warp's: four 8 x 8 matrices of 16-bit elements from shared memory. Lane 8 m + i names row i of matrix m
// (16 bytes, 16-byte aligned). Lane 4 g + t gets, in r[m], elements 2t and 2t+1 of row g; transposed: of
// column g.
LOMBARD_DEVICE void LdMatrixX4(uint32_t (&r)[4], const void* row) {
#ifdef __CUDACC__
  const uint32_t from = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(from)
               : "memory");
#else
  emulation::LdMatrixX4(r, row, false);
#endif
}
LOMBARD_DEVICE void LdMatrixX4Transposed(uint32_t (&r)[4], const void* row) {
#ifdef __CUDACC__
  const uint32_t from = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(from)
               : "memory");
#else
  emulation::LdMatrixX4(r, row, true);
#endif
}

// The warp's: transposes an 8 x 8 matrix of 16-bit elements. Lane 4 g + t gives elements 2t and 2t+1 of row g
// and gets those of column g.
LOMBARD_DEVICE uint32_t TransposeMatrix(uint32_t r) {
#ifdef __CUDACC__
  uint32_t transposed;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(transposed) : "r"(r));
  return transposed;
#else
  return emulation::TransposeMatrix(r);
#endif
}

// The warp's: c += A B, T = Half or BFloat16, sums in fp32 (the tensor core may truncate where fp32 addition
// rounds).
template <class T>
LOMBARD_DEVICE void Mma16x8x16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef __CUDACC__
  if constexpr (std::is_same_v<T, BFloat16>) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    static_assert(std::is_same_v<T, Half>);
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
#else
  emulation::Mma16x8x16<T>(c, a, b);
#endif
}

// 2^x, at most 2 units in the last place off (kExp2RelativeError); 0 for x below -126, also for -inf.
constexpr double kExp2RelativeError = 0x1p-22;
LOMBARD_DEVICE float Exp2(float x) {
#ifdef __CUDACC__
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return emulation::Exp2(x);
#endif
}

// 16 bytes that are read once: they pass by the first-level cache. 16-byte aligned.
template <class T>
LOMBARD_DEVICE Pack<T> LoadPackOnce(const T* p) {
#ifdef __CUDACC__
  uint4 bits;
  asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
      : "=r"(bits.x), "=r"(bits.y), "=r"(bits.z), "=r"(bits.w)
      : "l"(p));
  Pack<T> pack;
  __builtin_memcpy(&pack, &bits, 16);
  return pack;
#else
  return LoadPack(p);
#endif
}

// Asks for the 128-byte line of global memory at p; a hint.
LOMBARD_DEVICE void PrefetchL2(const void* p) {
#ifdef __CUDACC__
  asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
#else
  static_cast<void>(p);
#endif
}

}  // namespace lombard::ptx
