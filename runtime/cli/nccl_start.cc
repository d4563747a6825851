#include "runtime/cli/nccl_start.h"

#include "absl/strings/str_cat.h"
#include "base/device/gpu_info.h"
#include "fabric/host_name.h"
#include "fabric/nccl/nccl_collectives.h"

namespace lombard {

NcclStart StartNccl(int device) {
  const absl::StatusOr<NcclLibrary> library = NcclLibrary::Load();
  if (!library.ok()) {
    return {{}, absl::StrCat("loans between GPUs go over the transport: ", library.status().message())};
  }
  GpuPlace place{.host = HostKey(), .pci = {}};
  for (const GpuInfo& gpu : FindGpus().gpus) {
    if (gpu.device == device) place.pci = gpu.pci;
  }
  const absl::StatusOr<std::string> version = library->Version();
  return {
      [library = *library, place, device](int rank, const Clock* clock) -> GpuExchangeEnd {
        return {MakeNcclCollectives(library, {.rank = rank, .device = device, .place = place}, clock), place};
      },
      absl::StrCat("loans between GPUs go over NCCL ", version.value_or("(version unknown)"),
                   " where both ends can")};
}

}  // namespace lombard
