#include "tests/chaos/memory_record.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "absl/strings/str_cat.h"

namespace lombard {

void MemoryRecord::Sample(const std::string& who, pid_t pid, double seconds) {
  double size = 0, resident = 0;
  std::ifstream(absl::StrCat("/proc/", pid, "/statm")) >> size >> resident;
  if (resident <= 0) return;
  if (!samples_.contains(who)) order_.push_back(who);
  samples_[who].push_back({seconds, resident * static_cast<double>(sysconf(_SC_PAGESIZE)) / 1048576});
}

std::vector<MemoryRecord::Verdict> MemoryRecord::Verdicts(double judged_s) const {
  std::vector<Verdict> verdicts;
  for (const std::string& who : order_) {
    const std::vector<Point>& points = samples_.at(who);
    const size_t n = points.size();
    const auto median = [&](size_t quarter) {  // 0 to 3
      std::vector<double> values;
      for (size_t i = quarter * n / 4; i < std::max((quarter + 1) * n / 4, quarter * n / 4 + 1); ++i)
        values.push_back(points[std::min(i, n - 1)].mib);
      std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
      return values[values.size() / 2];
    };
    Verdict v{.who = who,
              .from_s = points.front().seconds,
              .to_s = points.back().seconds,
              .first = median(0),
              .second = median(1),
              .last = median(3)};
    double mean_x = 0, mean_y = 0, xx = 0, xy = 0;
    const size_t start = n / 4;
    for (size_t i = start; i < n; ++i) mean_x += points[i].seconds, mean_y += points[i].mib;
    mean_x /= n - start, mean_y /= n - start;
    for (size_t i = start; i < n; ++i) {
      const double x = points[i].seconds - mean_x;
      xx += x * x, xy += x * (points[i].mib - mean_y);
    }
    v.slope = xx > 0 ? 60 * xy / xx : 0;
    v.judged = n >= 8 && v.to_s - v.from_s >= judged_s;
    v.flat = !v.judged || v.last <= (1 + kGrowth) * v.second + kGrowthMiB;
    verdicts.push_back(v);
  }
  return verdicts;
}

}  // namespace lombard
