// Resident memory of the processes of a job over time, and whether it grows.
#pragma once

#include <sys/types.h>

#include <map>
#include <string>
#include <vector>

namespace lombard {

class MemoryRecord {
 public:
  // A process's memory now: `who` names rank and incarnation. Nothing when it is gone.
  void Sample(const std::string& who, pid_t pid, double seconds);

  struct Verdict {
    std::string who;
    double from_s = 0, to_s = 0;
    double first = 0, second = 0, last = 0;  // MiB: medians of those quarters of its life
    double slope = 0;                        // MiB per minute: least squares over the last three quarters
    bool judged = false, flat = true;
  };
  // In the order of first samples. Judged is who was seen for `judged_s` at least: pools, caches and the
  // allocator are warm after a quarter, and from the second quarter to the last it may grow by kGrowth of
  // that and kGrowthMiB.
  std::vector<Verdict> Verdicts(double judged_s) const;
  static constexpr double kGrowth = 0.1, kGrowthMiB = 8;

 private:
  struct Point {
    double seconds, mib;
  };
  std::vector<std::string> order_;
  std::map<std::string, std::vector<Point>> samples_;
};

}  // namespace lombard
