// The version of program and protocol; ranks of different versions do not work together.
#pragma once

namespace lombard {
inline constexpr char kVersion[] = "0.1.0";
}  // namespace lombard
