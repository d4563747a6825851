#include "bench/bench_support.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace lombard::bench {

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) void FmaTask() {
  __m256 a = _mm256_set1_ps(1), b = a, c = a, d = a, e = a, f = a, g = a, h = a, i = a, j = a;
  const __m256 x = _mm256_set1_ps(0.999f), y = _mm256_set1_ps(0.1f);
  for (long n = 0; n < 2000000; ++n) {
    a = _mm256_fmadd_ps(a, x, y), b = _mm256_fmadd_ps(b, x, y), c = _mm256_fmadd_ps(c, x, y),
    d = _mm256_fmadd_ps(d, x, y);
    e = _mm256_fmadd_ps(e, x, y), f = _mm256_fmadd_ps(f, x, y), g = _mm256_fmadd_ps(g, x, y),
    h = _mm256_fmadd_ps(h, x, y);
    i = _mm256_fmadd_ps(i, x, y), j = _mm256_fmadd_ps(j, x, y);
    asm volatile(""
                 : "+x"(a), "+x"(b), "+x"(c), "+x"(d), "+x"(e), "+x"(f), "+x"(g), "+x"(h), "+x"(i), "+x"(j));
  }
}
#else
void FmaTask() {}
#endif

}  // namespace lombard::bench
