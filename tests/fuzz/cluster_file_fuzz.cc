// Any bytes as a cluster file: a configuration or an error that starts with the file's name and a line.
#include <cstddef>
#include <cstdint>

#include "absl/strings/match.h"
#include "base/check.h"
#include "runtime/config/cluster_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto config = lombard::ParseClusterFile({reinterpret_cast<const char*>(data), size}, "f.yaml");
  if (config.ok()) {
    CHECK(config->RankCount() <= lombard::kRanksMax);
  } else {
    CHECK(absl::StartsWith(config.status().message(), "f.yaml:")) << config.status();
  }
  return 0;
}
