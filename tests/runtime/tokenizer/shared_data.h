// The developers' data set beside the checkout; tests that need it are skipped where it is absent.
#pragma once

#include <fstream>
#include <string>

namespace lombard {

// Tests run in the repository's root.
constexpr char kSharedData[] = "../shared/data";

inline bool FileExists(const std::string& path) { return std::ifstream(path).good(); }

}  // namespace lombard

#define LOMBARD_SKIP_WITHOUT(path) \
  if (!::lombard::FileExists(path)) GTEST_SKIP() << "no " << (path) << " on this machine"
