#include "kernels/cuda/cublas_lt.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace lombard {
namespace {

TEST(CublasLtTest, IsFoundOrItsAbsenceIsSaid) {
  const auto cublas = CublasLt::Load();
  if (!cublas.ok()) {
    EXPECT_EQ(cublas.status().code(), absl::StatusCode::kUnavailable);
    GTEST_SKIP() << cublas.status().message();
  }
  EXPECT_EQ(cublas->GetVersion() / 10000, CUBLAS_VER_MAJOR);
  const absl::Status invalid = cublas->ToStatus(CUBLAS_STATUS_INVALID_VALUE, "cublasLtMatmul");
  EXPECT_EQ(invalid.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(invalid.message()), testing::AllOf(testing::StartsWith("cublasLtMatmul: "),
                                                             testing::EndsWith(" (cuBLAS status 7)")));
  EXPECT_EQ(cublas->ToStatus(CUBLAS_STATUS_ALLOC_FAILED, "cublasLtCreate").code(),
            absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace lombard
