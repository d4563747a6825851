#include "fabric/nccl/nccl_library.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "base/dynamic_library.h"
#include "base/status.h"

namespace lombard {
namespace {

std::string VersionText(int version) {  // as NCCL_VERSION, which had other places up to 2.8
  const int major = version < 10000 ? 1000 : 10000;
  return absl::StrCat(version / major, ".", version % major / 100, ".", version % 100);
}

}  // namespace

absl::StatusOr<NcclLibrary> NcclLibrary::Load() {
  const std::string name = absl::StrCat("libnccl.so.", NCCL_MAJOR);
  ASSIGN_OR_RETURN(const DynamicLibrary library,
                   DynamicLibrary::Open({name, absl::StrCat(LOMBARD_CUDA_LIBRARY_DIR, "/", name)}));
  NcclLibrary table;
#define LOMBARD_LOAD(function) RETURN_IF_ERROR(library.Load("nccl" #function, &table.function))
  LOMBARD_LOAD(GetVersion);
  LOMBARD_LOAD(GetErrorString);
  LOMBARD_LOAD(GetUniqueId);
  LOMBARD_LOAD(CommInitRankConfig);
  LOMBARD_LOAD(CommAbort);
  LOMBARD_LOAD(CommGetAsyncError);
  LOMBARD_LOAD(Send);
  LOMBARD_LOAD(Recv);
  LOMBARD_LOAD(AllReduce);
#undef LOMBARD_LOAD
  RETURN_IF_ERROR(table.Version().status());
  return table;
}

absl::StatusOr<std::string> NcclLibrary::Version() const {
  int version = 0;
  if (const absl::Status asked = ToStatus(GetVersion(&version), "ncclGetVersion"); !asked.ok())
    return absl::UnavailableError(asked.message());
  if (version < kVersionMin) {
    return absl::UnavailableError(
        absl::StrCat("NCCL ", VersionText(version), " is too old: ", VersionText(kVersionMin),
                     " or later is needed; install it, or put its folder first on LD_LIBRARY_PATH"));
  }
  return VersionText(version);
}

absl::Status NcclLibrary::ToStatus(ncclResult_t result, absl::string_view call) const {
  if (result == ncclSuccess || result == ncclInProgress) return absl::OkStatus();
  const absl::StatusCode code =
      result == ncclRemoteError ? absl::StatusCode::kUnavailable : absl::StatusCode::kInternal;
  return absl::Status(code, absl::StrCat(std::string(call), ": ", GetErrorString(result), " (NCCL result ",
                                         static_cast<int>(result), ")"));
}

}  // namespace lombard
