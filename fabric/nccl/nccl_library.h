// NCCL, looked for at run time: the functions of it that the exchange between GPUs needs. Only where its
// header is (target lombard::nccl).
#pragma once

#include <nccl.h>

#include <string>

#include "absl/status/statusor.h"

namespace lombard {

// Filled by Load; copied freely. The functions are NCCL's own, without the prefix.
struct NcclLibrary {
  // kUnavailable: no library, or one older than kVersionMin.
  static absl::StatusOr<NcclLibrary> Load();

  // The first with minCTAs and maxCTAs in ncclConfig_t; communicators that do not block came before, in 2.14.
  static constexpr int kVersionMin = NCCL_VERSION(2, 17, 1);
  // "2.30.7". kUnavailable: it is older than kVersionMin, or does not say.
  absl::StatusOr<std::string> Version() const;

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
