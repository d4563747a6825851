// cuBLASLt, looked for at run time: the functions of it that matrix products need. Only where the CUDA
// toolkit's headers are (target lombard::cublas_lt).
#pragma once

#include <cublasLt.h>

#include "absl/status/statusor.h"

namespace lombard {

// Filled by Load; copied freely. The functions are cuBLASLt's own, without the prefix.
struct CublasLt {
  // kUnavailable: no library, or one of another major version than the headers.
  static absl::StatusOr<CublasLt> Load();

  decltype(&::cublasLtGetVersion) GetVersion = nullptr;
  decltype(&::cublasLtGetStatusString) GetStatusString = nullptr;
  decltype(&::cublasLtCreate) Create = nullptr;
  decltype(&::cublasLtDestroy) Destroy = nullptr;
  decltype(&::cublasLtMatmulDescCreate) MatmulDescCreate = nullptr;
  decltype(&::cublasLtMatmulDescDestroy) MatmulDescDestroy = nullptr;
  decltype(&::cublasLtMatmulDescSetAttribute) MatmulDescSetAttribute = nullptr;
  decltype(&::cublasLtMatrixLayoutCreate) MatrixLayoutCreate = nullptr;
  decltype(&::cublasLtMatrixLayoutDestroy) MatrixLayoutDestroy = nullptr;
  decltype(&::cublasLtMatrixLayoutSetAttribute) MatrixLayoutSetAttribute = nullptr;
  decltype(&::cublasLtMatmulPreferenceCreate) MatmulPreferenceCreate = nullptr;
  decltype(&::cublasLtMatmulPreferenceDestroy) MatmulPreferenceDestroy = nullptr;
  decltype(&::cublasLtMatmulPreferenceSetAttribute) MatmulPreferenceSetAttribute = nullptr;
  decltype(&::cublasLtMatmulAlgoGetHeuristic) MatmulAlgoGetHeuristic = nullptr;
  decltype(&::cublasLtMatmul) Matmul = nullptr;

  // "cublasLtMatmul: <cuBLAS's own words> (cuBLAS status 7)"; kInternal, memory kResourceExhausted.
  absl::Status ToStatus(cublasStatus_t status, absl::string_view call) const;
};

}  // namespace lombard
