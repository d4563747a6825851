#include "kernels/cuda/blas.h"

#ifdef LOMBARD_HAS_CUBLAS_LT

#ifndef LOMBARD_EMULATED_GPU
#include <cuda_runtime_api.h>
#endif

#include <cstdio>
#include <map>
#include <string>
#include <tuple>

#include "base/device/gpu_memory.h"
#include "base/device/gpu_status.h"
#include "base/status.h"
#include "kernels/cuda/cublas_lt.h"

namespace lombard {
namespace {

// Algorithms are chosen for what pointers are multiples of, up to 256 bytes, which is what cudaMalloc gives.
uint32_t AlignmentOf(const void* pointer) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(pointer) | 256;
  return static_cast<uint32_t>(address & -address);
}

// dtype, rows, n, k, x_stride, y_stride, alignments of w, x, y, bias, accumulate.
using Shape =
    std::tuple<DType, int64_t, int64_t, int64_t, int64_t, int64_t, uint32_t, uint32_t, uint32_t, bool, bool>;
Shape ShapeOf(const GpuMatmulArgs& args) {
  return {args.dtype,
          args.rows,
          args.n,
          args.k,
          args.x_stride,
          args.y_stride,
          AlignmentOf(args.w),
          AlignmentOf(args.x),
          AlignmentOf(args.y),
          args.bias != nullptr,
          args.accumulate};
}

cudaDataType_t TypeOf(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return CUDA_R_32F;
    case DType::kF16:
      return CUDA_R_16F;
    case DType::kBF16:
      return CUDA_R_16BF;
  }
  return CUDA_R_32F;
}

// The library works on the calling thread's device.
absl::Status SelectDevice([[maybe_unused]] int device) {
#ifdef LOMBARD_EMULATED_GPU
  return absl::OkStatus();
#else
  return ToStatus({static_cast<int>(cudaSetDevice(device)), "cudaSetDevice"});
#endif
}

// cuBLASLt's matrices are column-major: with W^T a [k, n] and x a [k, rows], y [n, rows] = (W^T)^T x.
class BlasLt final : public GpuBlas {
 public:
  BlasLt(const CublasLt& library, cublasLtHandle_t handle, DeviceMemory workspace)
      : lt_(library), handle_(handle), workspace_(std::move(workspace)) {}
  ~BlasLt() override {
    for (auto& [shape, product] : products_) Destroy(product);
    Report(lt_.Destroy(handle_), "cublasLtDestroy");
  }

  absl::Status Matmul(GpuStreamRef stream, const GpuMatmulArgs& args) override {
    if (args.rows == 0 || args.n == 0) return absl::OkStatus();
    RETURN_IF_ERROR(SelectDevice(stream.device));
    const auto [found, is_new] = products_.try_emplace(ShapeOf(args));
    Product& product = found->second;
    if (is_new) {
      if (absl::Status chosen = Choose(args, &product); !chosen.ok()) {
        Destroy(product);
        products_.erase(found);
        return chosen;
      }
    }
    if (!product.has_algorithm) return ToStatus(GpuMatmul(stream, args));
    if (args.bias != nullptr) {
      RETURN_IF_ERROR(lt_.ToStatus(lt_.MatmulDescSetAttribute(product.desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                                                              &args.bias, sizeof(args.bias)),
                                   "cublasLtMatmulDescSetAttribute"));
    }
    const float one = 1, beta = args.accumulate ? 1 : 0;
    return lt_.ToStatus(
        lt_.Matmul(handle_, product.desc, &one, args.w, product.w, args.x, product.x, &beta, args.y,
                   product.y, args.y, product.y, &product.algorithm, workspace_.data(), workspace_.bytes(),
                   static_cast<cudaStream_t>(stream.handle)),
        "cublasLtMatmul");
  }

 private:
  struct Product {
    cublasLtMatmulDesc_t desc = nullptr;
    cublasLtMatrixLayout_t w = nullptr, x = nullptr, y = nullptr;
    cublasLtMatmulAlgo_t algorithm{};
    bool has_algorithm = false;
  };

  // A line on standard error, of what costs no more than its memory.
  void Report(cublasStatus_t status, const char* call) const {
    if (const absl::Status failed = lt_.ToStatus(status, call); !failed.ok())
      std::fprintf(stderr, "%s\n", std::string(failed.message()).c_str());
  }

  void Destroy(Product& product) const {
    for (cublasLtMatrixLayout_t layout : {product.w, product.x, product.y})
      if (layout != nullptr) Report(lt_.MatrixLayoutDestroy(layout), "cublasLtMatrixLayoutDestroy");
    if (product.desc != nullptr) Report(lt_.MatmulDescDestroy(product.desc), "cublasLtMatmulDescDestroy");
  }

  absl::Status Choose(const GpuMatmulArgs& args, Product* product) const {
    RETURN_IF_ERROR(lt_.ToStatus(lt_.MatmulDescCreate(&product->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F),
                                 "cublasLtMatmulDescCreate"));
    const auto set = [&](cublasLtMatmulDescAttributes_t attribute, const auto& value) {
      return lt_.ToStatus(lt_.MatmulDescSetAttribute(product->desc, attribute, &value, sizeof(value)),
                          "cublasLtMatmulDescSetAttribute");
    };
    RETURN_IF_ERROR(set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T));
    if (args.bias != nullptr) {
      RETURN_IF_ERROR(set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS));
      RETURN_IF_ERROR(set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, args.bias));
      RETURN_IF_ERROR(set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, CUDA_R_32F));
    }
    const auto layout = [&](cublasLtMatrixLayout_t* made, DType dtype, int64_t height, int64_t width,
                            int64_t stride) {
      return lt_.ToStatus(lt_.MatrixLayoutCreate(made, TypeOf(dtype), static_cast<uint64_t>(height),
                                                 static_cast<uint64_t>(width), stride),
                          "cublasLtMatrixLayoutCreate");
    };
    RETURN_IF_ERROR(layout(&product->w, args.dtype, args.k, args.n, args.k));
    RETURN_IF_ERROR(layout(&product->x, args.dtype, args.k, args.rows, args.x_stride));
    RETURN_IF_ERROR(layout(&product->y, DType::kF32, args.n, args.rows, args.y_stride));

    cublasLtMatmulPreference_t preference = nullptr;
    RETURN_IF_ERROR(lt_.ToStatus(lt_.MatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate"));
    absl::Status preferred;
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
      preferred.Update(
          lt_.ToStatus(lt_.MatmulPreferenceSetAttribute(preference, attribute, &value, sizeof(value)),
                       "cublasLtMatmulPreferenceSetAttribute"));
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace_.bytes());
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, AlignmentOf(args.w));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, AlignmentOf(args.x));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, AlignmentOf(args.y));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, AlignmentOf(args.y));
    cublasLtMatmulHeuristicResult_t best{};
    int count = 0;
    const cublasStatus_t searched = lt_.MatmulAlgoGetHeuristic(
        handle_, product->desc, product->w, product->x, product->y, product->y, preference, 1, &best, &count);
    Report(lt_.MatmulPreferenceDestroy(preference), "cublasLtMatmulPreferenceDestroy");
    RETURN_IF_ERROR(preferred);
    if (searched == CUBLAS_STATUS_NOT_SUPPORTED || searched == CUBLAS_STATUS_INVALID_VALUE)
      return absl::OkStatus();  // a combination that it does not know
    RETURN_IF_ERROR(lt_.ToStatus(searched, "cublasLtMatmulAlgoGetHeuristic"));
    product->has_algorithm = count > 0 && best.state == CUBLAS_STATUS_SUCCESS;
    product->algorithm = best.algo;
    return absl::OkStatus();
  }

  const CublasLt lt_;
  const cublasLtHandle_t handle_;
  const DeviceMemory workspace_;
  std::map<Shape, Product> products_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<GpuBlas>> GpuBlas::Create([[maybe_unused]] int device) {
#ifdef LOMBARD_EMULATED_GPU
  return absl::UnavailableError("cuBLASLt does not run on the emulated device");
#else
  const absl::StatusOr<CublasLt> library = CublasLt::Load();
  if (!library.ok()) {
    return Annotate(library.status(), absl::StrCat("cuBLASLt: install cuBLAS of CUDA ", CUBLAS_VER_MAJOR,
                                                   ", or put its folder on LD_LIBRARY_PATH"));
  }
  return Create(device, *library);
#endif
}

absl::StatusOr<std::unique_ptr<GpuBlas>> GpuBlas::Create(int device, const CublasLt& library) {
  ASSIGN_OR_RETURN(DeviceMemory workspace, DeviceMemory::Create(device, kWorkspaceBytes));
  RETURN_IF_ERROR(SelectDevice(device));
  cublasLtHandle_t handle = nullptr;
  RETURN_IF_ERROR(library.ToStatus(library.Create(&handle), "cublasLtCreate"));
  return std::make_unique<BlasLt>(library, handle, std::move(workspace));
}

}  // namespace lombard

#else

namespace lombard {

absl::StatusOr<std::unique_ptr<GpuBlas>> GpuBlas::Create(int) {
  return absl::UnavailableError("built without the headers of cuBLASLt");
}

}  // namespace lombard

#endif
