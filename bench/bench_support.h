// What the CPU benchmarks share: ceilings of the machine, rounds in which everything takes its turn, medians.
#pragma once

#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/thread_pool.h"

namespace lombard::bench {

enum class Clock { kWall, kCpu };  // kCpu: of the process; for one thread on a machine that others use too

inline double Seconds(Clock clock) {
  timespec now;
  clock_gettime(clock == Clock::kWall ? CLOCK_MONOTONIC : CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

inline double Median(std::vector<double> values) {
  CHECK(!values.empty());
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

// One thing to time: `work` units (bytes or operations) per call.
struct Case {
  std::string name;
  double work = 0;
  std::function<void()> run;
  std::vector<double> rates = {};  // work per second, one per round
};

// Every case once per round, so that a slow minute of the machine hits all alike.
inline void RunInterleaved(std::vector<Case>& cases, int rounds, Clock clock) {
  for (int round = 0; round < rounds; ++round) {
    for (Case& one : cases) {
      usleep(20000);  // threads of the case before, should they spin, have gone to sleep
      const double start = Seconds(clock);
      one.run();
      one.rates.push_back(one.work / (Seconds(clock) - start));
    }
  }
}

// Written once, so that pages exist; not freed before the process ends.
inline char* MapBytes(size_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(memory != MAP_FAILED) << "no memory for " << bytes << " bytes";
  return static_cast<char*>(memory);
}

// Reads all of it, a stretch per task, in STREAMS streams each. Which number is the fastest differs between
// CPUs (Zen 3: four, Zen 5: one), so a ceiling is the better of both.
template <int STREAMS>
inline void ReadAll(ThreadPool& pool, const char* data, size_t bytes) {
  constexpr size_t kStretch = size_t{1} << 23;
  pool.Run(static_cast<int>(bytes / kStretch), [&](int i) {
    const char* base = data + i * kStretch;
    uint64_t sums[8] = {};
    for (size_t at = 0; at < kStretch / STREAMS; at += 64) {
      for (int stream = 0; stream < STREAMS; ++stream) {
        const char* line = base + stream * (kStretch / STREAMS) + at;
        __builtin_prefetch(line + (STREAMS == 1 ? 8192 : 512));
        uint64_t words[8];
        std::memcpy(words, line, 64);
        for (int w = 0; w < 8; ++w) sums[w] += words[w];
      }
    }
    uint64_t total = 0;
    for (uint64_t sum : sums) total += sum;
    asm volatile("" ::"r"(total));
  });
}

// Operations of independent fused multiply-adds in fp32 (AVX-512, else AVX2), and of dot products of bf16
// pairs (0 where the CPU has none), per task. On all threads at once they are the ceilings of arithmetic.
double FmaTask();
double PairsTask();
inline double RunOnAll(ThreadPool& pool, double (*task)()) {
  std::vector<double> operations(pool.threads());
  pool.Run(pool.threads(), [&](int i) { operations[i] = task(); });
  double sum = 0;
  for (double one : operations) sum += one;
  return sum;
}

// Those that the calling thread may use, ascending; and to use these only, as will the threads that it starts.
std::vector<int> Processors();
void StayOn(const std::vector<int>& processors);
// Its threads and the caller stay on a processor each, where there are as many: now and then the system lets
// two of them share one for the whole of a short case.
std::unique_ptr<ThreadPool> MakePinnedPool(int threads);

inline void PrintMachine(const ThreadPool& pool) {
  std::ifstream info("/proc/cpuinfo");
  std::string line, model = "unknown CPU";
  while (std::getline(info, line)) {
    if (line.rfind("model name", 0) == 0) model = line.substr(line.find(':') + 2);
  }
  std::ifstream load_file("/proc/loadavg"), pages_file("/sys/kernel/mm/transparent_hugepage/enabled");
  std::string load, pages;
  std::getline(load_file, load);
  std::getline(pages_file, pages);
  std::printf("# %s, %d threads, huge pages: %s, load before: %s\n", model.c_str(), pool.threads(),
              pages.c_str(), load.c_str());
}

}  // namespace lombard::bench
