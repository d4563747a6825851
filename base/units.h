// Quantities as people write them in flags and cluster files: 64MiB, 10Gbit, 200ms, 5%.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace lombard {

// Bytes: a whole or decimal number with B, KB, MB, GB, TB (powers of 1000) or KiB, MiB, GiB, TiB (powers of
// 1024); bare = bytes.
absl::StatusOr<uint64_t> ParseBytes(absl::string_view text);
// Bytes per second from a bit rate (kbit, Mbit, Gbit; per second understood) or a byte rate (as ParseBytes,
// with optional "/s").
absl::StatusOr<double> ParseBandwidth(absl::string_view text);
// 200ms, 50us, 1.5s, 2m, 1h.
absl::StatusOr<absl::Duration> ParseDuration(absl::string_view text);
// A fraction in [0, 1] from "5%" or "0.05".
absl::StatusOr<double> ParseFraction(absl::string_view text);
// 1.5 GiB, 12 KiB, 17 B.
std::string FormatBytes(uint64_t bytes);

}  // namespace lombard
