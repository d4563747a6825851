#include "tests/kernels/cuda/fake_cublas_lt.h"

#include <cstring>
#include <map>
#include <vector>

#include "base/dtype.h"

namespace lombard {
namespace {

struct Desc {
  std::map<int, uint64_t> attributes;  // by cublasLtMatmulDescAttributes_t
};
struct Layout {
  cudaDataType_t type;
  uint64_t rows, columns;
  int64_t leading;
};
struct Preference {
  uint64_t workspace_bytes = 0;
  std::map<int, uint32_t> alignments;
};
constexpr uint64_t kAlgorithm = 0x1234;

DType DTypeOf(cudaDataType_t type) {
  return type == CUDA_R_32F ? DType::kF32 : type == CUDA_R_16F ? DType::kF16 : DType::kBF16;
}
float At(const void* matrix, const Layout& layout, uint64_t row, uint64_t column) {
  return LoadFloat(DTypeOf(layout.type), matrix, column * layout.leading + row);
}
template <class T>
T* Of(const void* opaque) {
  return const_cast<T*>(static_cast<const T*>(opaque));
}

int heuristics = 0;

cublasStatus_t Create(cublasLtHandle_t* handle) {
  *handle = reinterpret_cast<cublasLtHandle_t>(new int);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t Destroy(cublasLtHandle_t handle) {
  delete Of<int>(handle);
  return CUBLAS_STATUS_SUCCESS;
}
const char* GetStatusString(cublasStatus_t) { return "fake status"; }

cublasStatus_t MatmulDescCreate(cublasLtMatmulDesc_t* desc, cublasComputeType_t compute,
                                cudaDataType_t scale) {
  if (compute != CUBLAS_COMPUTE_32F || scale != CUDA_R_32F) return CUBLAS_STATUS_INVALID_VALUE;
  *desc = reinterpret_cast<cublasLtMatmulDesc_t>(new Desc);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t MatmulDescDestroy(cublasLtMatmulDesc_t desc) {
  delete Of<Desc>(desc);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t MatmulDescSetAttribute(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attribute,
                                      const void* value, size_t bytes) {
  if (bytes != (attribute == CUBLASLT_MATMUL_DESC_BIAS_POINTER ? 8 : 4)) return CUBLAS_STATUS_INVALID_VALUE;
  uint64_t bits = 0;
  std::memcpy(&bits, value, bytes);
  Of<Desc>(desc)->attributes[attribute] = bits;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t MatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type, uint64_t rows,
                                  uint64_t columns, int64_t leading) {
  if (leading < static_cast<int64_t>(rows)) return CUBLAS_STATUS_INVALID_VALUE;
  *layout = reinterpret_cast<cublasLtMatrixLayout_t>(new Layout{type, rows, columns, leading});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t MatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete Of<Layout>(layout);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t MatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  *preference = reinterpret_cast<cublasLtMatmulPreference_t>(new Preference);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t MatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete Of<Preference>(preference);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t MatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                            cublasLtMatmulPreferenceAttributes_t attribute, const void* value,
                                            size_t bytes) {
  if (attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES) {
    std::memcpy(&Of<Preference>(preference)->workspace_bytes, value, bytes);
  } else {
    std::memcpy(&Of<Preference>(preference)->alignments[attribute], value, bytes);
  }
  return CUBLAS_STATUS_SUCCESS;
}

// Has none for odd n, which it says in either of the library's ways; refuses mixed types that the library refuses.
cublasStatus_t MatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t a,
                                      cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t,
                                      cublasLtMatrixLayout_t d, cublasLtMatmulPreference_t preference,
                                      int wanted, cublasLtMatmulHeuristicResult_t results[], int* count) {
  ++heuristics;
  *count = 0;
  const Layout& to = *Of<Layout>(d);
  if (Of<Layout>(a)->type != Of<Layout>(b)->type || to.type != CUDA_R_32F || wanted < 1 ||
      Of<Preference>(preference)->workspace_bytes == 0) {
    return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  if (to.rows % 2 != 0) return to.rows % 4 == 1 ? CUBLAS_STATUS_NOT_SUPPORTED : CUBLAS_STATUS_INVALID_VALUE;
  results[0] = {};
  results[0].algo.data[0] = kAlgorithm;
  results[0].state = CUBLAS_STATUS_SUCCESS;
  *count = 1;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t Matmul(cublasLtHandle_t, cublasLtMatmulDesc_t desc, const void* alpha, const void* a,
                      cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout,
                      const void* beta, const void* c, cublasLtMatrixLayout_t, void* d,
                      cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algorithm, void* workspace,
                      size_t, cudaStream_t) {
  if (algorithm->data[0] != kAlgorithm || workspace == nullptr || c != d) return CUBLAS_STATUS_INVALID_VALUE;
  auto& attributes = Of<Desc>(desc)->attributes;
  const bool transposed = attributes[CUBLASLT_MATMUL_DESC_TRANSA] == CUBLAS_OP_T;
  const Layout &la = *Of<Layout>(a_layout), &lb = *Of<Layout>(b_layout), &ld = *Of<Layout>(d_layout);
  const uint64_t depth = transposed ? la.rows : la.columns;
  if ((transposed ? la.columns : la.rows) != ld.rows || lb.rows != depth || lb.columns != ld.columns)
    return CUBLAS_STATUS_INVALID_VALUE;
  const float* bias = nullptr;
  if (attributes[CUBLASLT_MATMUL_DESC_EPILOGUE] == CUBLASLT_EPILOGUE_BIAS)
    bias = reinterpret_cast<const float*>(attributes[CUBLASLT_MATMUL_DESC_BIAS_POINTER]);
  float one, scale;
  std::memcpy(&one, alpha, 4), std::memcpy(&scale, beta, 4);
  for (uint64_t column = 0; column < ld.columns; ++column) {
    for (uint64_t row = 0; row < ld.rows; ++row) {
      double sum = 0;
      for (uint64_t i = 0; i < depth; ++i)
        sum += double{transposed ? At(a, la, i, row) : At(a, la, row, i)} * At(b, lb, i, column);
      float* const to = static_cast<float*>(d) + column * ld.leading + row;
      sum = sum * one + (scale == 0 ? 0 : double{scale} * *to) + (bias == nullptr ? 0 : bias[row]);
      *to = static_cast<float>(sum);
    }
  }
  return CUBLAS_STATUS_SUCCESS;
}

}  // namespace

CublasLt FakeCublasLt() {
  CublasLt table;
  table.GetStatusString = GetStatusString;
  table.Create = Create, table.Destroy = Destroy;
  table.MatmulDescCreate = MatmulDescCreate, table.MatmulDescDestroy = MatmulDescDestroy;
  table.MatmulDescSetAttribute = MatmulDescSetAttribute;
  table.MatrixLayoutCreate = MatrixLayoutCreate, table.MatrixLayoutDestroy = MatrixLayoutDestroy;
  table.MatmulPreferenceCreate = MatmulPreferenceCreate;
  table.MatmulPreferenceDestroy = MatmulPreferenceDestroy;
  table.MatmulPreferenceSetAttribute = MatmulPreferenceSetAttribute;
  table.MatmulAlgoGetHeuristic = MatmulAlgoGetHeuristic;
  table.Matmul = Matmul;
  return table;
}

int FakeHeuristicCalls() { return heuristics; }

}  // namespace lombard
