#include "fabric/nccl/nccl_library.h"

#include <gtest/gtest.h>

namespace lombard {
namespace {

TEST(NcclLibraryTest, IsFoundOrItsAbsenceIsSaid) {
  const auto nccl = NcclLibrary::Load();
  if (!nccl.ok()) {
    EXPECT_EQ(nccl.status().code(), absl::StatusCode::kUnavailable);
    GTEST_SKIP() << nccl.status().message();
  }
  int version = 0;
  ASSERT_EQ(nccl->GetVersion(&version), ncclSuccess);
  EXPECT_GE(version, 2 * 10000);
  EXPECT_TRUE(nccl->ToStatus(ncclInProgress, "ncclSend").ok());
  EXPECT_EQ(nccl->ToStatus(ncclRemoteError, "ncclSend").code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(nccl->ToStatus(ncclInternalError, "ncclSend").code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace lombard
