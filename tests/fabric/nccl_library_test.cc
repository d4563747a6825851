#include "fabric/nccl/nccl_library.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/fabric/fake_nccl.h"

namespace lombard {
namespace {

using testing::AllOf;
using testing::HasSubstr;

TEST(NcclLibraryTest, IsFoundOrItsAbsenceIsSaid) {
  const auto nccl = NcclLibrary::Load();
  if (!nccl.ok()) {
    EXPECT_EQ(nccl.status().code(), absl::StatusCode::kUnavailable);
    GTEST_SKIP() << nccl.status().message();
  }
  EXPECT_TRUE(nccl->Version().ok()) << nccl->Version().status();
  EXPECT_TRUE(nccl->ToStatus(ncclInProgress, "ncclSend").ok());
  EXPECT_EQ(nccl->ToStatus(ncclRemoteError, "ncclSend").code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(nccl->ToStatus(ncclInternalError, "ncclSend").code(), absl::StatusCode::kInternal);
}

TEST(NcclLibraryTest, OneThatIsTooOldIsRefusedWithTheRemedy) {
  NcclLibrary nccl = FakeNccl();
  nccl.GetVersion = [](int* version) { return *version = 21701, ncclSuccess; };
  EXPECT_EQ(*nccl.Version(), "2.17.1");
  nccl.GetVersion = [](int* version) { return *version = 21605, ncclSuccess; };
  const absl::Status old = nccl.Version().status();
  EXPECT_EQ(old.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(old.message()),
              AllOf(HasSubstr("NCCL 2.16.5"), HasSubstr("2.17.1 or later"), HasSubstr("LD_LIBRARY_PATH")));
  nccl.GetVersion = [](int* version) { return *version = 2804, ncclSuccess; };
  EXPECT_THAT(std::string(nccl.Version().status().message()), HasSubstr("NCCL 2.8.4"));
  nccl.GetVersion = [](int*) { return ncclSystemError; };
  EXPECT_EQ(nccl.Version().status().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace lombard
