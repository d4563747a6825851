#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <vector>

namespace lombard {
namespace {

TEST(ThreadPool, RunsEveryIndexOnceInEachOfManyLoops) {
  for (int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    for (int loop = 0; loop < 500; ++loop) {
      std::vector<std::atomic<int>> seen(loop % 37);
      pool.Run(static_cast<int>(seen.size()), [&](int i) { seen[i].fetch_add(1); });
      for (const auto& count : seen) ASSERT_EQ(count.load(), 1) << threads << " threads, loop " << loop;
    }
  }
}

}  // namespace
}  // namespace lombard
