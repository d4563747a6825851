// NCCL, looked for at run time: the functions of it that the exchange between GPUs needs. Only where its
// header is (target lombard::nccl).
#pragma once

#include <nccl.h>

#include "absl/status/statusor.h"

namespace lombard {

// Filled by Load; copied freely. The functions are NCCL's own, without the prefix.
struct NcclLibrary {
  // kUnavailable: no library, or one older than what is asked of it.
  static absl::StatusOr<NcclLibrary> Load();

  decltype(&::ncclGetVersion) GetVersion = nullptr;
  decltype(&::ncclGetErrorString) GetErrorString = nullptr;
  decltype(&::ncclGetUniqueId) GetUniqueId = nullptr;
  decltype(&::ncclCommInitRankConfig) CommInitRankConfig = nullptr;
  decltype(&::ncclCommAbort) CommAbort = nullptr;
  decltype(&::ncclCommGetAsyncError) CommGetAsyncError = nullptr;
  decltype(&::ncclSend) Send = nullptr;
  decltype(&::ncclRecv) Recv = nullptr;
  decltype(&::ncclAllReduce) AllReduce = nullptr;

  // "ncclSend: unhandled system error (NCCL result 2)"; ncclInProgress is OK, a peer's end kUnavailable, else
  // kInternal.
  absl::Status ToStatus(ncclResult_t result, absl::string_view call) const;
};

}  // namespace lombard
