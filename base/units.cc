#include "base/units.h"

#include <cmath>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "absl/types/span.h"

namespace lombard {
namespace {

struct Unit {
  absl::string_view suffix;
  double factor;
};

constexpr Unit kByteUnits[] = {
    {"KiB", 1024.0}, {"MiB", 1048576.0}, {"GiB", 1073741824.0}, {"TiB", 1099511627776.0},
    {"KB", 1e3},     {"MB", 1e6},        {"GB", 1e9},           {"TB", 1e12},
    {"B", 1.0}};

absl::StatusOr<double> ParseWithUnit(absl::string_view text, absl::Span<const Unit> units,
                                     absl::string_view what) {
  for (const Unit& unit : units) {
    absl::string_view number = text;
    double value;
    if (absl::ConsumeSuffix(&number, unit.suffix) && absl::SimpleAtod(number, &value) &&
        std::isfinite(value) && value >= 0) {
      return value * unit.factor;
    }
  }
  return absl::InvalidArgumentError(absl::StrCat("'", text, "' is not ", what));
}

}  // namespace

absl::StatusOr<uint64_t> ParseBytes(absl::string_view text) {
  uint64_t whole;
  if (absl::SimpleAtoi(text, &whole)) return whole;
  auto value = ParseWithUnit(text, kByteUnits, "a number of bytes (examples: 4096, 64MiB, 1.5GB)");
  if (!value.ok()) return value.status();
  if (*value >= 18446744073709551616.0) {
    return absl::InvalidArgumentError(absl::StrCat("'", text, "' is more bytes than 64 bits hold"));
  }
  return static_cast<uint64_t>(*value);
}

absl::StatusOr<double> ParseBandwidth(absl::string_view text) {
  constexpr Unit kBitUnits[] = {{"kbit", 125.0}, {"Mbit", 125e3}, {"Gbit", 125e6}, {"Tbit", 125e9}};
  if (auto bits = ParseWithUnit(text, kBitUnits, ""); bits.ok()) return bits;
  absl::string_view bytes = text;
  absl::ConsumeSuffix(&bytes, "/s");
  if (auto value = ParseWithUnit(bytes, kByteUnits, ""); value.ok()) return value;
  return absl::InvalidArgumentError(
      absl::StrCat("'", text, "' is not a bandwidth (examples: 10Gbit, 1.25GB/s)"));
}

absl::StatusOr<absl::Duration> ParseDuration(absl::string_view text) {
  absl::Duration duration;
  if (!absl::ParseDuration(text, &duration) || duration < absl::ZeroDuration()) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", text, "' is not a duration (examples: 200ms, 50us, 1.5s)"));
  }
  return duration;
}

absl::StatusOr<double> ParseFraction(absl::string_view text) {
  absl::string_view number = text;
  const double scale = absl::ConsumeSuffix(&number, "%") ? 0.01 : 1.0;
  double value;
  if (!absl::SimpleAtod(number, &value) || !(value * scale >= 0 && value * scale <= 1)) {
    return absl::InvalidArgumentError(absl::StrCat("'", text, "' is not a share between 0% and 100%"));
  }
  return value * scale;
}

std::string FormatBytes(uint64_t bytes) {
  constexpr absl::string_view kNames[] = {"KiB", "MiB", "GiB", "TiB"};
  if (bytes < 1024) return absl::StrCat(bytes, " B");
  double value = static_cast<double>(bytes) / 1024;
  int name = 0;
  while (value >= 1024 && name < 3) value /= 1024, ++name;
  return absl::StrFormat("%.4g %s", value, kNames[name]);
}

}  // namespace lombard
