#include "kernels/cuda/cublas_lt.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "base/dynamic_library.h"
#include "base/status.h"

namespace lombard {

absl::StatusOr<CublasLt> CublasLt::Load() {
  const std::string name = absl::StrCat("libcublasLt.so.", CUBLAS_VER_MAJOR);
  ASSIGN_OR_RETURN(const DynamicLibrary library,
                   DynamicLibrary::Open({name, absl::StrCat(LOMBARD_CUDA_LIBRARY_DIR, "/", name)}));
  CublasLt table;
#define LOMBARD_LOAD(function) RETURN_IF_ERROR(library.Load("cublasLt" #function, &table.function))
  LOMBARD_LOAD(GetVersion);
  LOMBARD_LOAD(GetStatusString);
  LOMBARD_LOAD(Create);
  LOMBARD_LOAD(Destroy);
  LOMBARD_LOAD(MatmulDescCreate);
  LOMBARD_LOAD(MatmulDescDestroy);
  LOMBARD_LOAD(MatmulDescSetAttribute);
  LOMBARD_LOAD(MatrixLayoutCreate);
  LOMBARD_LOAD(MatrixLayoutDestroy);
  LOMBARD_LOAD(MatrixLayoutSetAttribute);
  LOMBARD_LOAD(MatmulPreferenceCreate);
  LOMBARD_LOAD(MatmulPreferenceDestroy);
  LOMBARD_LOAD(MatmulPreferenceSetAttribute);
  LOMBARD_LOAD(MatmulAlgoGetHeuristic);
  LOMBARD_LOAD(Matmul);
#undef LOMBARD_LOAD
  return table;
}

absl::Status CublasLt::ToStatus(cublasStatus_t status, absl::string_view call) const {
  if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  const absl::StatusCode code = status == CUBLAS_STATUS_ALLOC_FAILED ? absl::StatusCode::kResourceExhausted
                                                                     : absl::StatusCode::kInternal;
  return absl::Status(code, absl::StrCat(std::string(call), ": ", GetStatusString(status), " (cuBLAS status ",
                                         static_cast<int>(status), ")"));
}

}  // namespace lombard
