#include "base/device/gpu_status.h"

#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/device/device_api.h"
#include "base/units.h"

namespace lombard {
namespace {

// cudaError_t; the numbers are part of CUDA's interface.
constexpr int kMemoryAllocation = 2, kInsufficientDriver = 35, kNoDevice = 100;

absl::StatusCode CodeOf(int error) {
  switch (error) {
    case kMemoryAllocation:
      return absl::StatusCode::kResourceExhausted;
    case kInsufficientDriver:
    case kNoDevice:
      return absl::StatusCode::kUnavailable;
    default:
      return absl::StatusCode::kInternal;
  }
}

}  // namespace

absl::Status ToStatus(const GpuError& error, absl::string_view asked) {
  if (error.ok()) return absl::OkStatus();
  std::string text;
  if (error.block[0] != 0) {
    text = absl::StrFormat("launch of %s, grid %d x %d x %d, block %d x %d x %d, %s shared", error.call,
                           error.grid[0], error.grid[1], error.grid[2], error.block[0], error.block[1],
                           error.block[2], FormatBytes(error.shared_bytes));
  } else {
    text = error.call;
  }
  if (!asked.empty()) absl::StrAppend(&text, ", ", std::string(asked));
  absl::StrAppend(&text, ": ", device_api::ErrorText(error.code), " (CUDA error ", error.code, ")");
  return absl::Status(CodeOf(error.code), text);
}

void ReportGpuError(const GpuError& error) {
  if (!error.ok()) std::fprintf(stderr, "%s\n", std::string(ToStatus(error).message()).c_str());
}

}  // namespace lombard
