// The developers' data set beside the checkout; tests that need it are skipped where it is absent. What is in
// the tree is never a reason to skip.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "base/check.h"

namespace lombard {

// Tests run in the repository's root.
constexpr char kSharedData[] = "../shared/data";

inline bool IsSharedPath(absl::string_view path) { return absl::StartsWith(path, "../shared/"); }

// REQUIRES: a path of the data set.
inline bool SharedFileExists(const std::string& path) {
  CHECK(IsSharedPath(path)) << path << " belongs to the tree, so its absence is a failure";
  return std::filesystem::exists(path);
}

}  // namespace lombard

#define LOMBARD_SKIP_WITHOUT(path) \
  if (!::lombard::SharedFileExists(path)) GTEST_SKIP() << "no " << (path) << " on this machine"
