#include "fabric/nccl/nccl_library.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "base/dynamic_library.h"
#include "base/status.h"

namespace lombard {

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
  return table;
}

absl::Status NcclLibrary::ToStatus(ncclResult_t result, absl::string_view call) const {
  if (result == ncclSuccess || result == ncclInProgress) return absl::OkStatus();
  const absl::StatusCode code =
      result == ncclRemoteError ? absl::StatusCode::kUnavailable : absl::StatusCode::kInternal;
  return absl::Status(code, absl::StrCat(std::string(call), ": ", GetErrorString(result), " (NCCL result ",
                                         static_cast<int>(result), ")"));
}

}  // namespace lombard
