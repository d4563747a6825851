#include "base/device/gpu_info.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/device/device_api.h"

namespace lombard {
namespace {

std::string VersionText(int version) {  // 13020 -> 13.2
  return absl::StrCat(version / 1000, ".", version % 1000 / 10);
}

std::string ReasonForNone(const device_api::Devices& found) {
  using device_api::Presence;
  switch (found.presence) {
    case Presence::kNotBuilt:
      return "built without CUDA kernels (LOMBARD_CUDA)";
    case Presence::kNoDriver:
      return "no NVIDIA driver (libcuda.so.1)";
    case Presence::kDriverTooOld:
      return absl::StrFormat("the NVIDIA driver is for CUDA %s, this program needs %s: update the driver",
                             VersionText(found.driver_version), VersionText(found.runtime_version));
    case Presence::kNoDevice:
      return "a driver, but no device (CUDA_VISIBLE_DEVICES, container flags?)";
    case Presence::kFailed:
      return absl::StrFormat("the driver fails: %s (CUDA error %d); see nvidia-smi",
                             device_api::ErrorText(found.code), found.code);
    case Presence::kPresent:
      break;
  }
  return "";
}

}  // namespace

GpuSearch FindGpus() {
  GpuSearch result;
  const device_api::Devices found = device_api::FindDevices();
  result.reason = ReasonForNone(found);
  result.broken = found.presence == device_api::Presence::kFailed ||
                  found.presence == device_api::Presence::kDriverTooOld;
  for (int device = 0; device < found.count; ++device) {
    GpuInfo gpu;
    std::string fault;
    if (const GpuError error = device_api::Describe(device, &gpu); !error.ok()) {
      fault = absl::StrFormat("GPU %d fails: %s (CUDA error %d)", device, device_api::ErrorText(error.code),
                              error.code);
      result.broken = true;
    } else if (ComputeCapability(gpu) < kComputeCapabilityMin) {
      fault = absl::StrFormat("GPU %d (%s) has compute capability %d.%d; 8.0 or more is needed", device,
                              gpu.name, gpu.compute_major, gpu.compute_minor);
    } else {
      result.gpus.push_back(std::move(gpu));
      continue;
    }
    absl::StrAppend(&result.reason, result.reason.empty() ? "" : "; ", fault);
  }
  return result;
}

}  // namespace lombard
