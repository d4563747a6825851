// CUDA's answers as Status.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/device/gpu_error.h"

namespace lombard {

// "cudaMalloc, 64 GiB on GPU 0: out of memory (CUDA error 2)"; `asked` is what stands between, may be empty.
// kResourceExhausted: no memory; kUnavailable: no driver or device; kInternal: all else. An error of work
// that ran earlier may show at any later call; after most of them the device is lost to this process.
absl::Status ToStatus(const GpuError& error, absl::string_view asked = "");

inline std::string OnGpu(int device) { return absl::StrCat("GPU ", device); }  // for `asked`

// A line on standard error, for destructors, which cannot return a Status. Nothing when there is no error.
void ReportGpuError(const GpuError& error);

}  // namespace lombard
