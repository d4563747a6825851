#include "bench/bench_support.h"

#include <sched.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace lombard::bench {

std::vector<int> Processors() {
  cpu_set_t set;
  CHECK_EQ(sched_getaffinity(0, sizeof set, &set), 0);
  std::vector<int> processors;
  for (int i = 0; i < CPU_SETSIZE; ++i) {
    if (CPU_ISSET(i, &set)) processors.push_back(i);
  }
  return processors;
}

void StayOn(const std::vector<int>& processors) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int processor : processors) CPU_SET(processor, &set);
  CHECK_EQ(sched_setaffinity(0, sizeof set, &set), 0);
}

std::unique_ptr<ThreadPool> MakePinnedPool(int threads) {
  const std::vector<int> processors = Processors();
  if (threads == 1 || processors.size() < static_cast<size_t>(threads))
    return std::make_unique<ThreadPool>(threads);
  StayOn({processors.begin() + 1, processors.begin() + threads});
  auto pool = std::make_unique<ThreadPool>(threads);
  StayOn({processors[0]});
  return pool;
}

#if defined(__x86_64__)
namespace {

constexpr int kLoops = 2000000;

__attribute__((target("avx2,fma"))) double Fma256() {
  __m256 a = _mm256_set1_ps(1), b = a, c = a, d = a, e = a, f = a, g = a, h = a, i = a, j = a;
  const __m256 x = _mm256_set1_ps(0.999f), y = _mm256_set1_ps(0.1f);
  for (int n = 0; n < kLoops; ++n) {
    a = _mm256_fmadd_ps(a, x, y), b = _mm256_fmadd_ps(b, x, y), c = _mm256_fmadd_ps(c, x, y),
    d = _mm256_fmadd_ps(d, x, y);
    e = _mm256_fmadd_ps(e, x, y), f = _mm256_fmadd_ps(f, x, y), g = _mm256_fmadd_ps(g, x, y),
    h = _mm256_fmadd_ps(h, x, y);
    i = _mm256_fmadd_ps(i, x, y), j = _mm256_fmadd_ps(j, x, y);
    asm volatile(""
                 : "+x"(a), "+x"(b), "+x"(c), "+x"(d), "+x"(e), "+x"(f), "+x"(g), "+x"(h), "+x"(i), "+x"(j));
  }
  return 10.0 * 16 * kLoops;
}

// Twelve independent sums, by the names of their registers: a compiler would keep them in memory.
#define LOMBARD_TWELVE(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define LOMBARD_CLOBBERS \
  "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11"

__attribute__((target("avx512f"))) double Fma512() {
  const __m512 x = _mm512_set1_ps(0.5f);
#define LOMBARD_FMA(i) "vfmadd231ps %0, %0, %%zmm" #i "\n"
  for (int n = 0; n < kLoops; ++n) asm volatile(LOMBARD_TWELVE(LOMBARD_FMA) : : "v"(x) : LOMBARD_CLOBBERS);
  return 12.0 * 32 * kLoops;
}

__attribute__((target("avx512f"))) double Pairs512() {
  const __m512i x = _mm512_set1_epi32(0x3f003f00);
#define LOMBARD_PAIRS(i) "vdpbf16ps %0, %0, %%zmm" #i "\n"
  for (int n = 0; n < kLoops; ++n) asm volatile(LOMBARD_TWELVE(LOMBARD_PAIRS) : : "v"(x) : LOMBARD_CLOBBERS);
  return 12.0 * 64 * kLoops;
}

}  // namespace

double FmaTask() { return __builtin_cpu_supports("avx512f") ? Fma512() : Fma256(); }
double PairsTask() { return __builtin_cpu_supports("avx512bf16") ? Pairs512() : 0; }
#else
double FmaTask() { return 0; }
double PairsTask() { return 0; }
#endif

}  // namespace lombard::bench
