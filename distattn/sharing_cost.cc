#include "distattn/sharing_cost.h"

#include <cmath>
#include <vector>

#include "absl/strings/str_format.h"
#include "base/check.h"

namespace lombard {
namespace {

// A group must take less than this share of the time apart. A guess: how far a profile of milliseconds errs.
constexpr double kShareMax = 0.95;

int Total(absl::Span<const int> rows) {
  int total = 0;
  for (const int count : rows) total += count;
  return total;
}

}  // namespace

double SharingCost::KeySeconds(int rows) const {
  CHECK_GT(rows, 0);
  for (size_t i = 1; i < kRows.size(); ++i) {
    if (rows > kRows[i]) continue;
    const double part = static_cast<double>(rows - kRows[i - 1]) / (kRows[i] - kRows[i - 1]);
    return key_seconds[i - 1] + part * (key_seconds[i] - key_seconds[i - 1]);
  }
  return key_seconds.back() * rows / kRows.back();
}

double SharingCost::ApartSeconds(int64_t keys, absl::Span<const int> rows) const {
  double seconds = 0;
  for (const int count : rows) seconds += KeySeconds(count);
  return seconds * static_cast<double>(keys);
}

double SharingCost::TogetherSeconds(int64_t keys, absl::Span<const int> rows) const {
  const int total = Total(rows);
  return KeySeconds(total) * static_cast<double>(keys) + job_seconds + row_seconds * total;
}

bool SharingCost::Groups(int64_t keys, absl::Span<const int> rows) const {
  return rows.size() > 1 && TogetherSeconds(keys, rows) < kShareMax * ApartSeconds(keys, rows);
}

int64_t SharingCost::KeysMin(int readers) const {
  const std::vector<int> rows(readers, 1);
  if (readers < 2) return 0;
  const double gain = kShareMax * ApartSeconds(1, rows) - KeySeconds(readers);
  const double keys = (job_seconds + row_seconds * readers) / gain;
  return gain > 0 && keys < 1e9 ? static_cast<int64_t>(std::floor(keys)) + 1 : 0;
}

std::string SharingCost::ToString() const {
  std::string text = absl::StrFormat("%.3g us a job, %.3g us a row; us per 1,000 keys:", 1e6 * job_seconds,
                                     1e6 * row_seconds);
  for (size_t i = 0; i < kRows.size(); ++i)
    absl::StrAppendFormat(&text, " %.3g (%d rows)", 1e9 * key_seconds[i], kRows[i]);
  for (const int readers : {2, 4, 16, 64}) {
    const int64_t keys = KeysMin(readers);
    absl::StrAppendFormat(&text, "%s %d readers %s", readers == 2 ? "; grouped:" : ",", readers,
                          keys == 0 ? "never" : absl::StrFormat("from %d keys", keys));
  }
  return text;
}

}  // namespace lombard
